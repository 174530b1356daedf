"""``llm2clip-search bench speed``: speed of the indexer and its stages, and time of a query."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import Device, RuntimeName

if TYPE_CHECKING:
    from llm2clip_search.benchmarks.perf.speed import IndexSpeed
    from llm2clip_search.benchmarks.perf.speed_comparison import SpeedComparison


def bench_speed(
    folder: Annotated[Path, typer.Argument(help="Folder of images; the index is written to a temporary folder.")],
    model: Annotated[str, typer.Option(help="Model to measure with, as for query.")] = "nano",
    rounds: Annotated[int, typer.Option(min=1, help="Number of measurements; medians are shown.")] = 3,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare with an earlier run of the same model and images, which --json printed into this file.",
            show_default=False,
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure images per second of the indexer and its stages, compared with the vision tower alone, and query times.

    [dim]llm2clip-search bench speed ./images[/dim]

    [dim]llm2clip-search bench speed ./images --against before.json[/dim]
    """
    from llm2clip_search.benchmarks.perf.speed import measure_index_speed
    from llm2clip_search.benchmarks.perf.speed_comparison import compare_speed, read_speed
    from llm2clip_search.encoders import load_encoder

    recorded = read_speed(against) if against is not None else None
    encoder = load_encoder(model, runtime=runtime, device=device)
    result = measure_index_speed(
        encoder,
        folder,
        rounds=rounds,
        query_options=("--runtime", runtime, "--device", device),
        comparable_to=recorded,
    )
    comparison = compare_speed(recorded, result) if recorded is not None else None
    with console.results():
        if json_output:
            compared = {"against": comparison.to_dict()} if comparison is not None else {}
            print(json.dumps(result.to_dict() | compared))
        else:
            _print(result)
            if comparison is not None:
                _print_comparison(comparison)
    if comparison is not None and not comparison.is_same_machine:
        console.warn(f"{against} was recorded on another machine or with another Python, so ratios compare those too.")


def _print(result: "IndexSpeed") -> None:
    stages = (
        ("walk, read, hash", result.read),
        ("decode, resize", result.decode),
        ("write", result.write),
        ("complete index run", result.index),
    )
    for name, rate in stages:
        share = f"{100 * rate / result.tower:.0f} % of vision-tower speed"
        console.out.print(f"{name:18}  {rate:8.1f} images/s ({share})")
    console.out.print(f"vision tower alone  {result.tower:8.1f} images/s")
    if result.gpu is not None:
        console.out.print(f"GPU in index run    {100 * result.gpu:8.0f} % of the time busy")
    console.out.print(f"slowest stage       {_STAGES[result.slowest]:>8}")
    share = f"{100 * result.again / result.first:.1f} % of the first"
    console.out.print(f"second index run    {result.again:8.3f} s ({share})")
    console.out.print(f"text tower alone    {result.text_tower:8.1f} captions/s")
    console.out.print(f"one query           {1000 * result.caption:8.1f} ms with index and model loaded")
    console.out.print(f"query command       {1000 * result.cold:8.1f} ms in its own process, including start-up")


def _print_comparison(comparison: "SpeedComparison") -> None:
    """Times per image, caption and query, as they were recorded and now, and where indexing has changed most."""
    left = ("milliseconds",)
    table = console.table(*left, "recorded", "now", "speed, recorded = 1", left=left)
    names = {**_STAGES, "index": "complete index run"}
    timings = {f"{names[name]}, an image": timing for name, timing in comparison.per_image.items()}
    timings["second index run"] = comparison.again
    timings["text tower, a caption"] = comparison.per_caption
    timings |= {_QUERY[name]: timing for name, timing in comparison.query.items()}
    for name, timing in timings.items():
        table.add_row(name, f"{1000 * timing.recorded:.2f}", f"{1000 * timing.now:.2f}", f"{timing.speed:.2f}")
    console.out.print()
    console.out.print(table)
    stage, whole = comparison.changed_stage, comparison.per_image["index"]
    changed = comparison.per_image[stage]
    console.out.print(
        f"An index run takes {1000 * (whole.now - whole.recorded):+.2f} ms per image; the stage that has changed most"
        f" is {_STAGES[stage]}, {1000 * (changed.now - changed.recorded):+.2f} ms."
    )


_QUERY = {
    "search": "one query, index and model loaded",
    "start": "start of a query command until then",
    "command": "query command",
}
_STAGES = {"tower": "vision tower", "read": "walk, read, hash", "decode": "decode, resize", "write": "write"}
