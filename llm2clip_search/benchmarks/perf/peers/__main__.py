"""Command line of the comparison with other programs."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.base.files import replace_file
from llm2clip_search.benchmarks.perf.peers.measuring import compare
from llm2clip_search.benchmarks.perf.peers.pictures import write_pictures
from llm2clip_search.benchmarks.perf.peers.report import markdown
from llm2clip_search.benchmarks.perf.peers.tools import TOOLS, make_tool
from llm2clip_search.errors import InputError, Llm2ClipError


def main(
    shards: Annotated[Path, typer.Option(help="Folder of tar files with JPEG files, such as those of Flickr8k.")],
    images: Annotated[int, typer.Option(min=1, help="Indexed images that are searched.")] = 10_000,
    index_images: Annotated[int, typer.Option(min=1, help="Images of each index that is timed.")] = 500,
    rounds: Annotated[int, typer.Option(min=0, help="Queries of each program.")] = 5,
    index_rounds: Annotated[int, typer.Option(min=0, help="Indices of each program.")] = 5,
    tools: Annotated[str, typer.Option(help="Programs by name, separated by commas.")] = ",".join(TOOLS),
    baseline: Annotated[str, typer.Option(help="Commit of this repository to measure as well.")] = "",
    folder: Annotated[
        Path | None,
        typer.Option(help="Where environments, weights, images and indices are kept. Default: a temporary folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write all runs to, as JSON.")] = None,
) -> None:
    """Install other programs, run them and this one in turns on the same images, and print Markdown."""
    names = [*(name for name in tools.split(",") if name), *(["baseline"] if baseline else [])]
    if unknown := [name for name in names if name not in (*TOOLS, "baseline")]:
        raise InputError(f"There is no program {unknown[0]!r}; those that are known are {', '.join(TOOLS)}.")
    with tempfile.TemporaryDirectory(prefix="llm2clip-peers-") as temporary:
        scratch = (folder or Path(temporary)).absolute()
        made = []
        for name in names:
            _say(f"installing {name}")
            made.append(make_tool(name, scratch, baseline=baseline))
        comparison = compare(
            made,
            images=write_pictures(shards, scratch, images),
            index_images=write_pictures(shards, scratch, index_images),
            folder=scratch,
            rounds=rounds,
            index_rounds=index_rounds,
            progress=lambda what, done, total, _: _say(f"{what}: {done} of {total}"),
        )
    if out is not None:
        replace_file(out, f"{json.dumps(comparison.to_dict(), indent=1)}\n".encode())
    typer.echo(markdown(comparison))


def _say(what: str) -> None:
    typer.echo(what, err=True)


if __name__ == "__main__":
    try:
        typer.run(main)
    except Llm2ClipError as error:
        sys.exit(f"error: {error}")
