"""``llm2clip-search bench speed``: speed of the indexer and its stages, and time of a query."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import Device, RuntimeName

if TYPE_CHECKING:
    from llm2clip_search.benchmarks.perf.speed import IndexSpeed


def bench_speed(
    folder: Annotated[Path, typer.Argument(help="Folder of images; the index is written to a temporary folder.")],
    model: Annotated[str, typer.Option(help="Model to measure with, as for query.")] = "nano",
    rounds: Annotated[int, typer.Option(min=1, help="Number of measurements; medians are shown.")] = 3,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure images per second of the indexer and its stages, compared with the vision tower alone, and query times.

    [dim]llm2clip-search bench speed ./images[/dim]
    """
    from llm2clip_search.benchmarks.perf.speed import measure_index_speed
    from llm2clip_search.encoders import load_encoder

    encoder = load_encoder(model, runtime=runtime, device=device)
    result = measure_index_speed(
        encoder, folder, rounds=rounds, query_options=("--runtime", runtime, "--device", device)
    )
    with console.results():
        if json_output:
            print(json.dumps(result.to_dict()))
        else:
            _print(result)


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
    console.out.print(f"slowest stage       {_STAGES[result.slowest]:>8}")
    share = f"{100 * result.again / result.first:.1f} % of the first"
    console.out.print(f"second index run    {result.again:8.3f} s ({share})")
    console.out.print(f"text tower alone    {result.text_tower:8.1f} captions/s")
    console.out.print(f"one query           {1000 * result.caption:8.1f} ms with index and model loaded")
    console.out.print(f"query command       {1000 * result.cold:8.1f} ms in its own process, including start-up")


_STAGES = {"tower": "vision tower", "read": "walk, read, hash", "decode": "decode, resize", "write": "write"}
