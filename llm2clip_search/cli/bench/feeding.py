"""``llm2clip-search bench feeding``: what an index costs that gets one image at a time."""

from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import ModelName
from llm2clip_search.cli.progress import ProgressBar
from llm2clip_search.cli.sizes import numbers


def bench_feeding(
    runs: Annotated[
        str, typer.Option(help="Numbers of runs to measure after, ascending, separated by commas.")
    ] = "10,100,1000",
    model: ModelName = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per number of runs.")] = False,
) -> None:
    """Index a folder again and again, each time with one new image, and measure runs, queries and files.

    [dim]llm2clip-search bench feeding --runs 10,100[/dim]
    """
    from llm2clip_search.benchmarks.perf.feeding import benchmark_feeding
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.encoders.registry import DEFAULT_MODEL
    from llm2clip_search.errors import CorpusError

    counts = numbers(runs, "--runs")
    if counts[0] < 1 or counts != sorted(set(counts)):
        raise CorpusError(f"--runs is {runs!r}, but the numbers must ascend from at least 1.")
    encoder = load_encoder(model or DEFAULT_MODEL)
    table = console.table("runs", "images", "shards", "files", "dead rows", "run ms", "query ms", "open files")
    with ProgressBar() as progress, console.results():
        for fed in benchmark_feeding(encoder, counts, progress=progress):
            if json_output:
                console.print_json(fed.to_dict())
            whole = (fed.runs, fed.images, fed.shards, fed.files, fed.dead)
            held = "-" if fed.descriptors is None else str(fed.descriptors)
            table.add_row(*(f"{count:,}" for count in whole), f"{fed.run_ms:.0f}", f"{fed.query_ms:.1f}", held)
    if not json_output:
        with console.results():
            console.out.print(table)
