"""Rows of CSV and JSON lines as Arrow batches: a column has one type, that of all its values in the whole file."""

import csv
import gzip
import io
import json
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.corpora.table_files import LONGEST_CELL, Rows, TableFile, batch_of, distinct, readable
from llm2clip_search.errors import CorpusError

CSV_SUFFIXES, JSON_SUFFIXES = (".csv", ".tsv"), (".jsonl", ".jsonlines", ".ndjson")
_BLOCK = 4096
"""Rows whose types are looked at together."""
_NO_VALUE = pa.array(["", "NA", "N/A", "n/a", "null", "NULL", "None", "NaN", "nan"])
"""What stands for a missing value in columns of a CSV file that are not text."""
_CSV_TYPES = (
    (pa.bool_(), "^(?i:true|false)$"),
    (pa.int64(), "^-?(0|[1-9][0-9]{0,17})$"),  # 007 is a name, and so is a number that does not fit
    (pa.float64(), r"^-?(0|[1-9][0-9]{0,14}|(0|[1-9][0-9]*)?\.[0-9]+|(0|[1-9][0-9]*)\.)([eE][+-]?[0-9]+)?$"),
    (pa.date32(), "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
    (pa.timestamp("us"), r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?)?$"),
)
"""What the cells of a CSV column look like; the first type that fits all of them is taken, otherwise they are text."""
_JSON_TYPES = {
    frozenset({"bool"}): pa.bool_(),
    frozenset({"int"}): pa.int64(),
    frozenset({"int", "long"}): pa.int64(),
    frozenset({"float"}): pa.float64(),
    frozenset({"float", "int"}): pa.float64(),
    frozenset({"str"}): pa.string(),
}

_Record = Mapping[str, Any] | str
"""A row by column, or what is wrong with it."""


class TextTable(TableFile):
    """A table that is text, gzipped or not; a byte-order mark, which spreadsheets write, is skipped."""

    def read_schema(self) -> pa.Schema:
        return _types_of(self) if self.version else self.types()

    def rows(self, columns: Sequence[str], *, first: int = 0, size: int = 1024) -> Iterator[Rows]:
        schema = pa.schema([each for each in self.schema() if each.name in columns])
        with self.records() as (_, records):
            for _ in islice(records, first):
                pass
            while block := list(islice(records, size)):
                faults = {first + number: row for number, row in enumerate(block) if isinstance(row, str)}
                yield Rows(first=first, batch=self._batch(block, schema), faults=faults)
                first += len(block)

    def _batch(self, block: list[_Record], schema: pa.Schema) -> pa.RecordBatch:
        cells = {name: [None if isinstance(row, str) else row.get(name) for row in block] for name in schema.names}
        return batch_of({each.name: self.column(cells[each.name], each.type) for each in schema}, len(block))

    @abstractmethod
    def types(self) -> pa.Schema:
        """Columns and the types of all their values, by reading the whole file."""

    @abstractmethod
    @contextmanager
    def records(self) -> Iterator[tuple[list[str], Iterator[_Record]]]:
        """The header, if there is one, and the rows."""

    @abstractmethod
    def column(self, values: list[Any], kind: pa.DataType) -> pa.Array:
        """Cells of a column as its type; None is null."""

    @contextmanager
    def lines(self) -> Iterator[Iterator[str]]:
        """The lines with their ends; bytes that are not UTF-8 become surrogates."""
        with readable(self.uri), self.files.open(self.uri) as file:
            try:
                stream: Any = gzip.GzipFile(fileobj=file) if self.uri.casefold().endswith(".gz") else file
                encoding = "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
                stream.seek(0)
                yield self._bounded(io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=""))
            except (zlib.error, gzip.BadGzipFile) as error:
                raise CorpusError(f"{self.uri} cannot be unpacked: {error}.") from error

    def _bounded(self, text: TextIO) -> Iterator[str]:
        """The lines of a text. One that does not end, as in a file of zeros, is not held in memory."""
        while line := text.readline(LONGEST_CELL + 1):
            if len(line) > LONGEST_CELL:
                raise CorpusError(f"{self.uri} has a line of more than {LONGEST_CELL:,} characters.")
            yield line


@lru_cache(maxsize=16)
def _types_of(table: TextTable) -> pa.Schema:
    """The types of one version of a file, remembered because they take reading it."""
    return table.types()


class CsvFile(TextTable):
    """Comma-separated values with a header; separated by tabs in ``.tsv``, in ``.csv`` by what separates the header."""

    def types(self) -> pa.Schema:
        with self.records() as (names, records):
            fits, empty = {name: list(_CSV_TYPES) for name in names}, set(names)
            rows = (row for row in records if not isinstance(row, str))
            while block := list(islice(rows, _BLOCK)):
                for name in (name for name in names if fits[name]):
                    cells = _present(pa.array([row[name] for row in block], pa.string()))
                    if cells.null_count < len(cells):
                        empty.discard(name)
                    fits[name] = [(kind, look) for kind, look in fits[name] if _looks(cells, kind, look)]
            return pa.schema([(name, _first_type(() if name in empty else fits[name])) for name in names])

    def column(self, values: list[Any], kind: pa.DataType) -> pa.Array:
        cells = pa.array(values, pa.string())
        return pc.if_else(pc.equal(cells, ""), None, cells) if kind == pa.string() else _present(cells).cast(kind)

    @contextmanager
    def records(self) -> Iterator[tuple[list[str], Iterator[_Record]]]:
        with self.lines() as lines:
            first = next(lines, "")
            tabs = self.uri.casefold().removesuffix(".gz").endswith(".tsv")
            # Python's own limit of 131,072 characters is too small for an image in base64.
            csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
            parsed = _csv_rows(chain([first], lines), "\t" if tabs else max(",;\t|", key=first.count))
            header = next(parsed, [])
            if isinstance(header, str):
                raise CorpusError(f"The header of {self.uri} {header}.")
            names = distinct([name.strip() for name in header])
            yield names, (_csv_record(row, names) for row in parsed if row)


def _csv_rows(lines: Iterator[str], separator: str) -> Iterator[list[str] | str]:
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"is not CSV: {error}"


def _csv_record(row: list[str] | str, names: list[str]) -> _Record:
    if isinstance(row, str):
        return row
    if len(row) != len(names):
        return f"has {len(row)} cells where the header has {len(names)}"
    return dict(zip(names, row, strict=True)) if all(map(_is_utf8, row)) else "is not UTF-8"


def _present(cells: pa.Array) -> pa.Array:
    """Cells without those that stand for a missing value."""
    return pc.if_else(pc.is_in(cells, _NO_VALUE), None, cells)


def _looks(cells: pa.Array, kind: pa.DataType, look: str) -> bool:
    """Whether all cells look like values of a type, and are."""
    if pc.all(pc.match_substring_regex(cells, look)).as_py() is False:
        return False
    try:
        cells.cast(kind)
    except pa.ArrowInvalid:  # 2024-02-31
        return False
    return True


def _first_type(fits: Sequence[tuple[pa.DataType, str]]) -> pa.DataType:
    return fits[0][0] if fits else pa.string()


class JsonFile(TextTable):
    """An object in each line; the keys of all lines are the columns. What has no one Arrow type is JSON text."""

    def types(self) -> pa.Schema:
        seen: dict[str, set[str]] = {}
        with self.records() as (_, records):
            for row in records:
                if not isinstance(row, str):
                    for name, value in row.items():
                        seen.setdefault(name, set()).update(_kinds(value))
        return pa.schema([(name, _json_type(kinds)) for name, kinds in seen.items()])

    def column(self, values: list[Any], kind: pa.DataType) -> pa.Array:
        if kind == pa.string():
            values = [cell if cell is None or isinstance(cell, str) else _json_text(cell) for cell in values]
        return pa.array(values, kind)

    @contextmanager
    def records(self) -> Iterator[tuple[list[str], Iterator[_Record]]]:
        with self.lines() as lines:
            yield [], (_json_record(line) for line in lines if line.strip())


def _json_record(line: str) -> _Record:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg} at character {error.pos}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        return f"is not read as JSON: {error}"
    if not isinstance(row, dict):
        return "is not a JSON object"
    is_utf8 = _is_utf8(line) and ("\\u" not in line or _is_utf8(_json_text(row)))
    return row if is_utf8 else "is not UTF-8"


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _kinds(value: Any) -> Iterator[str]:
    """What a JSON value is; nothing for null. ``long`` is a whole number that a float does not hold, ``large`` one
    that 64 bits do not; ``of ...`` is what a list holds."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield "int" if -(2**63) <= value < 2**63 else "large"
        if abs(value) > 2**53:
            yield "long"
    elif value is not None:
        yield type(value).__name__
    if isinstance(value, list):
        yield from (f"of {kind}" for each in value for kind in _kinds(each))


def _json_type(kinds: set[str]) -> pa.DataType:
    if "list" in kinds:
        inside = _JSON_TYPES.get(frozenset(kind.removeprefix("of ") for kind in kinds - {"list"}))
        return pa.list_(inside) if inside is not None and all(" " in kind for kind in kinds - {"list"}) else pa.string()
    return _JSON_TYPES.get(frozenset(kinds), pa.string())


def _is_utf8(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
