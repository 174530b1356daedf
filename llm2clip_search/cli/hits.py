"""How hits are printed: as a table with thumbnails, as JSON, as CSV, or as paths."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llm2clip_search.base.visible import visible, visible_json
from llm2clip_search.cli import console
from llm2clip_search.errors import QueryError

if TYPE_CHECKING:
    from llm2clip_search.engine import Hit, Result, Searcher

Form = Literal["table", "json", "csv", "paths", "null"]
"""``null`` ends each path with a zero byte."""
WORDS = 160
"""Characters of a passage that the table shows."""
_BREAKS = "\t\r\n"
"""Characters that CSV quotes."""
LABELS = ("query", "query_line")
"""What JSON and CSV say of the caption of a batch besides its hits."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """What one command prints hits as."""

    form: Form = "table"
    preview: bool = False
    """Thumbnails in the table."""
    indices: Sequence[str] = ()
    """Folders of the indices if there are several; a table then shows ids as ``ID@N``, which --like takes."""
    columns: Sequence[str] = ()
    """Of CSV: the keys of JSON objects."""


def form_of(*, json_output: bool, csv_output: bool, paths: bool, null: bool) -> Form:
    """The form that a command's options ask for.

    Raises:
        QueryError: more than one.
    """
    asked: dict[Form, bool] = {"json": json_output, "csv": csv_output, "paths": paths and not null, "null": null}
    forms = [form for form, is_asked in asked.items() if is_asked]
    if len(forms) > 1:
        raise QueryError(
            "Results are printed in one form, but several are given.", hint="Choose --json, --csv, --paths."
        )
    return forms[0] if forms else "table"


def style_of(opened: "Searcher", form: Form, *, preview: bool | None, is_grouped: bool, is_batch: bool) -> Style:
    """How to print the hits of a query in some form; ``preview`` is as of `wants_pictures`."""
    folders = [str(part.snapshot.folder) for part in opened.parts]
    keys = ("rank", "id", "score", "path", *opened.columns, "part", "exists")
    optional = {
        "probability": opened.encoder.calibration is not None,
        "index": len(folders) > 1,
        "duplicates": is_grouped,
        **dict.fromkeys(LABELS, is_batch),
    }
    return Style(
        form=form,
        preview=form == "table" and wants_pictures(preview),
        indices=folders if len(folders) > 1 else (),
        columns=tuple(dict.fromkeys((*keys, *(name for name, given in optional.items() if given)))),
    )


def print_head(style: Style) -> None:
    """Print what comes before all hits: the header line of CSV."""
    if style.form == "csv":
        console.print_bytes(_csv_line(map(_cell, style.columns)))


def print_hits(result: "Result", style: Style, *, labels: Mapping[str, Any] | None = None) -> None:
    """Print hits on stdout; ``labels`` are further keys of each JSON object and line of CSV."""
    if style.form == "table":
        _print_table(result.hits, style)
        return
    console.print_bytes(b"".join(_line(hit, style, labels or {}) for hit in result.hits))


def _line(hit: "Hit", style: Style, labels: Mapping[str, Any]) -> bytes:
    if style.form in ("paths", "null"):  # the bytes that the path is on disk, whatever the encoding of stdout
        return os.fsencode(hit.uri) + (b"\0" if style.form == "null" else b"\n")
    row = {**hit.to_dict(), **labels}
    return console.json_line(row) if style.form == "json" else _csv_line(_cell(row.get(key)) for key in style.columns)


def _csv_line(cells: Iterable[Any]) -> bytes:
    """One record of RFC 4180, in UTF-8 whatever the encoding of stdout."""
    line = io.StringIO(newline="")
    csv.writer(line).writerow(cells)
    return line.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> Any:
    """A value as CSV shows it: nothing for null, lists and objects as JSON, text as people can see it."""
    if isinstance(value, bool | list | dict):
        return visible_json(json.dumps(value, ensure_ascii=False))
    return visible(value, keep=_BREAKS) if isinstance(value, str) else value


def _print_table(hits: Sequence["Hit"], style: Style) -> None:
    """A table with columns of probabilities, of duplicates and of parts if there are any; images with their size and
    thumbnails if asked for, texts with their words on a line below."""
    from rich.markup import escape

    grouped = any(hit.duplicates is not None for hit in hits)
    are_texts = any(hit.modality == "text" for hit in hits)
    has_parts = any(hit.part is not None for hit in hits)
    calibrated = any(hit.probability is not None for hit in hits)
    pictures = style.preview and not are_texts
    shown = {
        "probability": calibrated,
        "more": grouped,
        "size": not are_texts,
        "part": has_parts,
        "text" if are_texts else "image": True,
    }
    names = [name for name, is_shown in shown.items() if is_shown]
    table = console.table("score", "id", *names, *([""] if pictures else []), left=("part", "text", "image", ""))
    for hit in hits:
        number = f"@{style.indices.index(hit.index) + 1}" if hit.index is not None else ""
        name = escape(console.printable(hit.file)) + (" [red](gone)[/red]" if hit.exists is False else "")
        cells = {
            "probability": "" if hit.probability is None else f"{hit.probability:.2f}",
            "more": f"+{len(hit.duplicates)}" if hit.duplicates else "",
            "size": f"{hit.metadata['width']}x{hit.metadata['height']}",
            "part": escape(console.printable(hit.part or "")),
            "image": name,
            "text": f"{name}\n[dim]{_words(hit.text or '')}[/dim]",
        }
        row = [f"{hit.score:.3f}", f"{hit.id}{number}", *(cells[each] for each in names)]
        table.add_row(*row, *([_picture(hit)] if pictures else []))
    console.out.print(table)


def _words(text: str) -> str:
    """The beginning of a text, on one line."""
    from rich.markup import escape

    line = " ".join(text[: 2 * WORDS].split())
    return escape(console.printable(line if len(line) <= WORDS else f"{line[:WORDS]}..."))


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


def _picture(hit: "Hit") -> Any:
    from textual_image.renderable import Image

    from llm2clip_search.encoders.images import read_rgb
    from llm2clip_search.errors import CorpusError, ImageError

    try:
        thumbnail = read_rgb(hit.open())
    except (OSError, CorpusError, ImageError):
        return "(gone)"
    thumbnail.thumbnail((320, 320))
    return Image(thumbnail, width=24, height="auto")
