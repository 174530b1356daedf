"""``llm2clip-search bench speed``: how fast the indexer and a query are, and which stage holds them up."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import Device, RuntimeName

if TYPE_CHECKING:
    from llm2clip_search.benchmarks.perf.speed import IndexSpeed


def bench_speed(
    folder: Annotated[Path, typer.Argument(help="Folder of images to index, into a scratch folder.")],
    model: Annotated[str, typer.Option(help="As for query.")] = "nano",
    rounds: Annotated[int, typer.Option(min=1, help="Times each is measured; medians are shown.")] = 3,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Images a second by stage and of the indexer, against the vision tower alone on preloaded pixels; query times.

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
    for name, rate in (("walk, read, hash", result.read), ("decode, resize", result.decode), ("write", result.write)):
        console.out.print(f"{name:18}  {rate:8.1f} images/s, {rate / result.tower:.2f} of the tower")
    console.out.print(f"vision tower alone  {result.tower:8.1f} images/s")
    console.out.print(
        f"whole index run     {result.index:8.1f} images/s, {result.index / result.tower:.2f} of the tower"
    )
    console.out.print(f"slowest stage       {_STAGES[result.slowest]:>8}")
    console.out.print(f"second index run    {result.again:8.3f} s, {result.again / result.first:.3f} of the first")
    console.out.print(f"text tower alone    {result.text_tower:8.1f} captions/s")
    console.out.print(f"one caption         {1000 * result.caption:8.1f} ms, in an open index")
    console.out.print(f"query command       {1000 * result.cold:8.1f} ms, a process of its own with its start-up")


_STAGES = {"tower": "vision tower", "read": "walk, read, hash", "decode": "decode, resize", "write": "write"}
