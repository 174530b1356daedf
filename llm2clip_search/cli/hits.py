"""How hits are printed: as a table with thumbnails, as JSON, or as paths."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from llm2clip_search.cli import console

if TYPE_CHECKING:
    from llm2clip_search.engine import Hit, Result


@dataclass(frozen=True, kw_only=True)
class Style:
    """What one command prints hits as."""

    form: Literal["table", "json", "paths", "null"] = "table"
    """``null`` ends each path with a zero byte."""
    preview: bool = False
    """Thumbnails in the table."""
    indices: Sequence[str] = ()
    """Folders of the indices if there are several; a table then shows ids as ``ID@N``, which --like takes."""


def style_of(*, json_output: bool, paths: bool, null: bool, preview: bool | None, indices: Sequence[Any]) -> Style:
    """The style that a command's options ask for; ``indices`` are those that are searched."""
    form: Literal["table", "json", "paths", "null"] = "table"
    if json_output:
        form = "json"
    elif paths or null:
        form = "null" if null else "paths"
    folders = [str(each.snapshot.folder) for each in indices]
    is_shown = form == "table" and wants_pictures(preview)
    return Style(form=form, preview=is_shown, indices=folders if len(folders) > 1 else ())


def print_hits(result: "Result", style: Style, *, labels: Mapping[str, Any] | None = None) -> None:
    """Print hits on stdout; ``labels`` are further keys of each JSON object."""
    if style.form == "json":
        for hit in result.hits:
            print(json.dumps({**hit.to_dict(), **(labels or {})}, ensure_ascii=False))
    elif style.form == "table":
        _print_table(result.hits, style)
    else:
        end = "\0" if style.form == "null" else "\n"
        for hit in result.hits:
            sys.stdout.write(hit.uri + end)


def _print_table(hits: Sequence["Hit"], style: Style) -> None:
    """A table with a column of duplicates if they are grouped, and one of thumbnails if asked for."""
    grouped = any(hit.duplicates is not None for hit in hits)
    further = ["more"] if grouped else []
    pictures = [""] if style.preview else []
    table = console.table("score", "id", *further, "size", "image", *pictures, left=("image", ""))
    for hit in hits:
        number = f"@{style.indices.index(hit.index) + 1}" if hit.index is not None else ""
        more = [f"+{len(hit.duplicates)}" if hit.duplicates else ""] if grouped else []
        size = f"{hit.metadata['width']}x{hit.metadata['height']}"
        name = escape(printable(hit.uri)) + (" [red](gone)[/red]" if hit.exists is False else "")
        cells = [f"{hit.score:.3f}", f"{hit.id}{number}", *more, size, name]
        table.add_row(*cells, *([_picture(hit.uri)] if style.preview else []))
    console.out.print(table)


def printable(text: str) -> str:
    """Text for a table: a path below the current folder is relative, control characters are shown as escapes."""
    shown = text.removeprefix(f"{Path.cwd().as_posix().rstrip('/')}/")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def wants_pictures(asked: bool | None) -> bool:
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
