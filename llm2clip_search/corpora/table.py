"""Tables that hold images or texts: Parquet, Arrow, CSV and JSON lines, each row one item or more."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, quote

import pyarrow as pa

from llm2clip_search.corpora.columns import digest
from llm2clip_search.corpora.container import Container
from llm2clip_search.corpora.corpus import Item, Modality
from llm2clip_search.corpora.files import Files, beside, files_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.table_columns import (
    columns_of_images,
    from_base64,
    image_columns,
    is_base64,
    text_column,
)
from llm2clip_search.corpora.table_files import TableFile
from llm2clip_search.corpora.table_formats import TABLE_SUFFIXES, open_table
from llm2clip_search.corpora.table_values import CarriedColumn, carried_columns, carried_schema, row_columns
from llm2clip_search.errors import CorpusError, ImageError

_ROWS = 16
"""Rows that are held at a time: images can have megabytes."""


class TableContainer(Container):
    """Rows of a table as items: ``photos.parquet#row=17``.

    ``&column=NAME`` names the column if it holds texts, if the caller has named it, or if several hold images, and
    ``&item=2`` the element of a list. The version is that of the file.
    """

    kind = "table"
    suffixes = TABLE_SUFFIXES
    modalities: frozenset[Modality] = frozenset({"image", "text"})
    has_columns = True
    extra = ""

    def schema(self, files: Files, container: Item, options: SourceOptions) -> pa.Schema | None:
        return carried_schema(_reading(open_table(files, container.uri, container.version), options).carried)

    def parts(self, files: Files, container: Item, options: SourceOptions) -> Iterator[Item]:
        table = open_table(files, container.uri, container.version)
        reading = _reading(table, options)
        for rows in table.rows([*reading.columns, *(each.name for each in reading.carried)], size=_ROWS):
            for number, columns in enumerate(row_columns(reading.carried, rows.batch)):
                row = rows.first + number
                item = replace(container, is_container=False, size=0, columns=columns, described=digest(columns))
                if row in rows.faults:
                    yield replace(item, uri=f"{container.uri}#row={row}", fault=f"the row {rows.faults[row]}")
                    continue
                for name in reading.columns:
                    where = f"{container.uri}#row={row}" + (f"&column={quote(name, safe='')}" if reading.names else "")
                    for part, cell in _cells(rows.batch.column(name)[number].as_py()):
                        yield _with_content(files, replace(item, uri=where + part), cell, options)

    def open(self, files: Files, item: Item, options: SourceOptions = SourceOptions()) -> bytes:
        uri, part = self.split(item.uri)
        asked = parse_qs(part)
        row, names, element = int(asked["row"][0]), asked.get("column"), asked.get("item", ["0"])[0]
        table = open_table(files, uri, item.version)
        try:
            columns = names or image_columns(table, None)
            rows = next(table.rows(columns, first=row, size=1), None)
        except CorpusError as error:
            raise ImageError(str(error), stage="read") from error
        if rows is None or columns[0] not in rows.batch.schema.names:
            raise FileNotFoundError(f"{uri} does not hold it any more")
        if row in rows.faults:
            raise ImageError(f"the row {rows.faults[row]}", stage="read")
        cells = dict(_cells(rows.batch.column(columns[0])[0].as_py()))
        return _content(files, uri, cells.get(f"&item={element}", cells.get("")), options)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How a table is read."""

    columns: Sequence[str]
    """Those that hold the items."""
    names: bool
    """URIs name the column."""
    carried: Sequence[CarriedColumn]


def _reading(table: TableFile, options: SourceOptions) -> _Reading:
    if options.modality == "text":
        columns: Sequence[str] = (text_column(table, options.text),)
        used: Sequence[str] = (*columns, *columns_of_images(table))
    else:
        columns = used = image_columns(table, options.image)
    carried = carried_columns(
        table, used=used, wanted=options.columns, modality=options.modality, joined=options.metadata
    )
    names = options.modality == "text" or len(columns) > 1 or options.image is not None
    return _Reading(columns=columns, names=names, carried=carried)


def _cells(value: Any) -> list[tuple[str, Any]]:
    """A cell's elements, each with what its URI ends with."""
    if not isinstance(value, list):
        return [("", value)]
    return [(f"&item={number}", each) for number, each in enumerate(value)] or [("", None)]


def _with_content(files: Files, item: Item, cell: Any, options: SourceOptions) -> Item:
    try:
        data = _content(files, item.uri.rpartition("#row=")[0], cell, options)
    except ImageError as error:
        return replace(item, fault=str(error))
    except OSError as error:
        return replace(item, fault=f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    return replace(item, data=data, size=len(data))


def _content(files: Files, uri: str, cell: Any, options: SourceOptions) -> bytes:
    """What a cell of a table holds: bytes, a struct of bytes and path, an image in base64, or a text.

    Raises:
        OSError: the file that it names cannot be read.
        ImageError: it holds nothing.
    """
    if isinstance(cell, dict):
        data, path = cell.get("bytes"), cell.get("path")
        if data is None and path:
            place = beside(uri, path)
            return (files_of(place, options) if "://" in path else files).read(place)
        cell = data
    if isinstance(cell, str):
        try:
            cell = from_base64(cell) if is_base64(cell) else cell.encode()
        except ValueError as error:
            raise ImageError(f"the row holds damaged base64: {error}", stage="read") from error
    if cell is None or cell == b"":
        raise ImageError("the row holds nothing", stage="read")
    return cell if isinstance(cell, bytes) else str(cell).encode()  # a column of texts may be one of numbers
