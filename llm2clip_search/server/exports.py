"""Results as files: a line of JSON each, CSV, or paths."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from llm2clip_search.base.visible import visible, visible_json
from llm2clip_search.server.values import Found

Format = Literal["json", "ndjson", "csv", "paths"]
MEDIA: dict[Format, str] = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "paths": "text/plain",
}
_ENDINGS: dict[Format, str] = {"ndjson": "ndjson", "csv": "csv", "paths": "txt"}
_BREAKS = "\t\r\n"
"""Characters that CSV quotes."""
_COLUMNS = tuple(name for name in Found.__struct_fields__ if name not in ("columns", "duplicates"))


def format_of(request: Request, asked: Format | None) -> Format:
    """The form in which a request wants its results: what it names, or the first that it accepts."""
    if asked is not None:
        return asked
    accepted = [each.partition(";")[0].strip().lower() for each in request.headers.get("accept", "").split(",")]
    return next((form for each in accepted for form, media in MEDIA.items() if media == each), "json")


def exported(form: Format, pages: Iterator[list[Found]], *, columns: Sequence[str]) -> Response:
    """A file that is sent as its pages come; the first page is taken at once, so that its errors are answered.

    Args:
        columns: those that sources brought along, for the head of a table.
    """
    first = next(pages, [])
    write: Callable[[Iterator[Found]], Iterator[str]] = {"csv": lambda rows: _csv(rows, columns), "paths": _paths}.get(
        form, _ndjson
    )

    def rows() -> Iterator[Found]:
        yield from first
        for page in pages:
            yield from page

    headers = {"Content-Disposition": f'attachment; filename="results.{_ENDINGS[form]}"'}
    return StreamingResponse(_chunks(write(rows())), headers=headers, media_type=MEDIA[form])


def _chunks(lines: Iterator[str], size: int = 1 << 16) -> Iterator[bytes]:
    """Lines in larger pieces: each piece costs the server a turn of its loop."""
    held, count = list[str](), 0
    for line in lines:
        held.append(line)
        count += len(line)
        if count >= size:
            yield "".join(held).encode()
            held, count = [], 0
    yield "".join(held).encode()


def _ndjson(rows: Iterator[Found]) -> Iterator[str]:
    for row in rows:
        yield visible_json(msgspec.json.encode(row).decode()) + "\n"


def _paths(rows: Iterator[Found]) -> Iterator[str]:
    r"""One path in a line; line breaks within a name, which would make two paths of it, are written as ``\n``."""
    for row in rows:
        yield visible(row.path) + "\n"


def _csv(rows: Iterator[Found], columns: Sequence[str]) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.writer(line)

    def written(cells: Sequence[Any]) -> str:
        line.seek(0)
        line.truncate()
        writer.writerow([cell(each) for each in cells])
        return line.getvalue()

    yield written([*_COLUMNS, *_heads(columns)])
    for row in rows:
        yield written([getattr(row, name) for name in _COLUMNS] + [row.columns.get(name) for name in columns])


def _heads(columns: Sequence[str]) -> list[str]:
    """Names of the sources' columns; with ``source_`` in front where a hit has a field of that name."""
    taken = {*_COLUMNS, *columns}
    heads = []
    for name in columns:
        head = name
        while head in _COLUMNS or (head != name and head in taken):
            head = f"source_{head}"
        taken.add(head)
        heads.append(head)
    return heads


def cell(value: Any) -> str:
    """A value as a cell of CSV, with escapes for what people do not see.

    Text that a spreadsheet would run as a formula begins with an apostrophe.

    Source: OWASP, CSV Injection.
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool | int | float):
        return str(value)
    text = visible(value, keep=_BREAKS) if isinstance(value, str) else visible_json(msgspec.json.encode(value).decode())
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
