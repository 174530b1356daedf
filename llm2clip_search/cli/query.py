"""``llm2clip-search query``: search an index."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from llm2clip_search.cli import console
from llm2clip_search.cli.options import Device, IndexFolder, ModelName, QuantizeName, RuntimeName

if TYPE_CHECKING:
    from llm2clip_search.engine import Result, SearchIndex


def query(
    text: Annotated[
        str | None, typer.Argument(help="A caption, as long and precise as you like.", show_default=False)
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Find images like this file.", show_default=False)] = None,
    like: Annotated[
        int | None, typer.Option(help="Find images like the indexed one with this id.", show_default=False)
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(help="A caption to add, optionally with a weight as in 'at night^0.5'.", show_default=False),
    ] = None,
    sub: Annotated[list[str] | None, typer.Option(help="A caption to subtract.", show_default=False)] = None,
    k: Annotated[int, typer.Option("-k", "--limit", help="Number of results.")] = 10,
    offset: Annotated[int, typer.Option(help="Skip this many top results (paging).")] = 0,
    threshold: Annotated[
        float | None, typer.Option(help="Lowest cosine to show, from -1 to 1.", show_default=False)
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition, as in \"width > 1000 AND path LIKE '%/2024/%'\".", show_default=False),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            help="Share of the exact results that approximate search aims at; 1 is exact search. Default: what the"
            " index was built for.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print how the search was done and what it took.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print paths only, one per line.")] = False,
    null: Annotated[bool, typer.Option("-0", "--null", help="Print paths only, each ended by a zero byte.")] = False,
    preview: Annotated[
        bool | None,
        typer.Option(
            "--preview/--no-preview",
            help="Thumbnails in the table. Default: if the terminal can show them.",
            show_default=False,
        ),
    ] = None,
    index: IndexFolder = None,
    model: ModelName = None,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    quantize: QuantizeName = "none",
) -> None:
    """Find images by a caption, an image, an indexed image, or a sum of these.

    Filters are applied before the search. Scores are cosines. Columns for --where: id, path, content_hash, size,
    mtime, width, height, format, taken, camera, latitude, longitude.

    [dim]llm2clip-search query "two children in red jackets climb a wet rock" -k 5[/dim]
    [dim]llm2clip-search query --image beach.jpg --add "at night" --sub "people^0.5"[/dim]
    """
    from llm2clip_search.engine import open_index

    opened = open_index(index, model=model, runtime=runtime, device=device, quantize=quantize)
    search = partial(
        opened.query,
        text,
        image=image,
        like=like,
        add=add or (),
        sub=sub or (),
        k=k,
        offset=offset,
        threshold=threshold,
        where=where,
    )
    result = search(recall=recall)
    for warning in result.warnings:
        console.warn(warning)
    with console.results():
        if json_output:
            for hit in result.hits:
                print(json.dumps(hit.to_dict(), ensure_ascii=False))
        elif paths or null:
            for hit in result.hits:
                sys.stdout.write(f"{hit.uri}\0" if null else f"{hit.uri}\n")
        else:
            print_table(result, preview=_wants_pictures(preview))
    if explain:
        _explain(result, opened)
        if result.plan.point is not None:
            _compare(result, search(recall=1.0))


def print_table(result: "Result", *, preview: bool) -> None:
    """Print hits as a table on stdout, with thumbnails if asked for."""
    if not result.hits:
        console.say("No image matches the query.")
        return
    columns = ("score", "id", "size", "image", *([""] if preview else []))
    table = console.table(*columns, left=("image", ""))
    for hit in result.hits:
        size = f"{hit.metadata['width']}x{hit.metadata['height']}"
        cells = [f"{hit.score:.3f}", str(hit.id), size, escape(_short(hit.uri))]
        table.add_row(*cells, *([_picture(hit.uri)] if preview else []))
    console.out.print(table)


def _short(uri: str) -> str:
    """A path relative to the current folder if it lies below it; control characters are shown as escapes."""
    shown = uri.removeprefix(f"{Path.cwd().as_posix().rstrip('/')}/")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def _wants_pictures(asked: bool | None) -> bool:
    """As asked; by default if the terminal has a picture protocol, kitty's or sixel."""
    if asked is False:
        return False
    if not sys.stdout.isatty() or not sys.stdin.isatty() or 0 in os.get_terminal_size(sys.stdout.fileno()):
        if asked:
            console.warn("--preview needs a terminal; only names are printed.")
        return False
    from textual_image.renderable import Image, SixelImage, TGPImage

    return bool(asked) or Image in (SixelImage, TGPImage)


def _picture(uri: str) -> Any:
    from textual_image.renderable import Image

    from llm2clip_search.encoders.images import read_rgb
    from llm2clip_search.errors import ImageError

    try:
        thumbnail = read_rgb(uri)
    except ImageError:
        return "(gone)"
    thumbnail.thumbnail((320, 320))
    return Image(thumbnail, width=24, height="auto")


def _explain(result: "Result", opened: "SearchIndex") -> None:
    plan = result.plan
    console.say(f"plan: {plan.strategy} on the {plan.device}: {plan.reason}")
    if plan.point is not None:
        queries = opened.snapshot.manifest.ann and opened.snapshot.manifest.ann.queries
        console.say(
            f"      effort {plan.effort}, {plan.candidates:,} candidates: recall@{plan.point.depth}"
            f" {plan.point.recall:.3f} for {queries} when it was built"
        )
    if plan.tail:
        console.say(f"      {plan.tail:,} rows that are not in it yet are compared as well")
    console.say(f"model: {opened.encoder.name} ({opened.encoder.fingerprint})")
    console.say("time: " + ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in result.seconds.items()))


def _compare(result: "Result", exact: "Result") -> None:
    """Say what an approximate search missed."""
    found = {hit.id for hit in result.hits}
    common = sum(hit.id in found for hit in exact.hits)
    took = 1000 * exact.seconds["search"]
    console.say(f"check: {common} of the {len(exact.hits)} exact results, which took {took:.0f} ms to find")
