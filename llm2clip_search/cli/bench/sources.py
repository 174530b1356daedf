"""``llm2clip-search bench sources``: the same images from every place that they can be in."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar


def bench_sources(
    folder: Annotated[Path, typer.Argument(help="Folder of images; whatever is written goes to a temporary folder.")],
    images: Annotated[int | None, typer.Option(min=1, help="Number of images, the first ones.  [default: all]")] = None,
    model: Annotated[str, typer.Option(help="Model to measure with, as for query.")] = "nano",
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per source.")] = False,
) -> None:
    """Index the same images from a folder, tars, Parquet, URLs and S3; compare each with the vision tower alone.

    The servers of URLs and objects run on this machine. The S3 server needs the package moto.

    [dim]llm2clip-search bench sources ./images --images 1000[/dim]
    """
    from llm2clip_search.benchmarks.perf.loopback import has_s3_server
    from llm2clip_search.benchmarks.perf.sources import measure_sources
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.errors import CorpusError

    encoder = load_encoder(model, runtime=runtime, device=device)
    if not has_s3_server():
        console.say("No S3 server is measured: the packages moto, flask, flask-cors and obstore are not all installed.")
    table = console.table("source", "images", "images/s", "vision tower", "share", "second run s", "same vectors")
    differing = []
    with ProgressBar() as progress, console.results():
        for speed in measure_sources(encoder, folder, limit=images, progress=progress):
            if json_output:
                console.print_json(speed.to_dict())
            rates = (f"{speed.rate:.1f}", f"{speed.tower:.1f}", f"{100 * speed.share:.0f} %", f"{speed.again:.2f}")
            table.add_row(speed.source, f"{speed.images:,}", *rates, "yes" if speed.same else "no")
            differing += [] if speed.same else [speed.source]
    if not json_output:
        with console.results():
            console.out.print(table)
    if differing:
        raise CorpusError(f"The vectors of {' and '.join(differing)} differ from those of the folder.")
