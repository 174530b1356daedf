"""How rows of an index lie in a serving engine: names, values and which columns get an index.

The row's id is Qdrant's point id, and also a column ``id``, so that conditions may name it. Columns are those that
conditions and hits name: ``path`` is a whole path as conditions see it (`store.names`), ``mtime`` is there for
conditions besides ``mtime_ns``. Nulls are left out. LanceDB stores Arrow's own types; Qdrant stores JSON:

================  =====================================================================
text              a string
integers          an integer
floats            a number; ``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` are strings
booleans          true or false
timestamps, days  RFC 3339 in UTC with microseconds: ``"2024-05-17T12:30:00.000000Z"``
times             ISO 8601 as Python writes it
durations         whole microseconds
decimals          a string
lists             an array of these
================  =====================================================================
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

import pyarrow as pa

DIGEST = "_digest"
"""Own column of each row: a mark of its other columns, int64."""
VECTOR = "_vector"
"""Column of the vectors in LanceDB; in Qdrant they are the unnamed vector of a point."""
MARKS = "_marks"
"""Own key of rows in Qdrant that have values which indices of their columns leave out: NaN, infinities and empty lists.
Its index finds them, where Qdrant would read all rows otherwise: 80 ms per 100,000."""
UNINDEXED = frozenset({"text", "caption", "content_hash", "version", "mtime_ns"})
"""Columns that hardly repeat and that few conditions name: an index of them would take more memory than it saves time.
Conditions on them are answered all the same, by reading the rows."""
_LAYOUT = 1
"""Part of every digest: another layout sends all rows again."""
_MICROSECOND = timedelta(microseconds=1)

FieldKind = Literal["keyword", "integer", "float", "bool", "datetime"]
"""Kinds of payload indices, as Qdrant calls them."""


@lru_cache(maxsize=4096)
def stored_name(column: str) -> str:
    """The name of a column in an engine: its own, with percent escapes for what their paths give a meaning."""
    return re.sub(r'[%.`"\\\x00-\x1f]', lambda match: f"%{ord(match[0]):02X}", column)


def qdrant_key(column: str) -> str:
    """The path of a column in Qdrant's conditions; quotes keep brackets and spaces from having a meaning."""
    return f'"{stored_name(column)}"'


def published_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of an engine's rows, from those of the index's metadata."""
    fields = [field for field in schema if field.name not in ("described", "mtime")]
    return pa.schema([*fields, pa.field("mtime", pa.timestamp("us"))])


def field_kind(arrow: pa.DataType) -> FieldKind | None:
    """The kind of payload index that serves a column's values, or the items of its lists; None if there is none.

    Unsigned integers of 64 bits have none, because engines' integers are signed, and decimals have none.
    """
    types = pa.types
    if types.is_list(arrow):
        return field_kind(arrow.value_type)
    if types.is_string(arrow) or types.is_large_string(arrow):
        return "keyword"
    if types.is_boolean(arrow):
        return "bool"
    if types.is_integer(arrow):
        return None if types.is_uint64(arrow) else "integer"
    if types.is_floating(arrow):
        return "float"
    return "datetime" if types.is_timestamp(arrow) or types.is_date(arrow) else None


def indexed_columns(schema: pa.Schema) -> dict[str, FieldKind]:
    """The columns that get a payload index, with its kind."""
    kinds = {field.name: field_kind(field.type) for field in schema if field.name not in UNINDEXED}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def payload_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row, by column as Arrow gives its values, as Qdrant stores it; without its digest."""
    payload = {stored_name(name): encoded(value) for name, value in row.items() if value is not None}
    if marks := [mark(name, value) for name, value in row.items() if _is_left_out(value)]:
        payload[MARKS] = marks
    return payload


def mark(column: str, value: float | list[Any]) -> str:
    """What `MARKS` holds of a column with a value that indices leave out."""
    return f"{stored_name(column)}={value}"


def _is_left_out(value: Any) -> bool:
    return not math.isfinite(value) if isinstance(value, float) else value == []


def digest_of(payload: dict[str, Any]) -> int:
    """A mark of a payload, int64: equal for equal rows."""
    text = json.dumps([_LAYOUT, payload], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def row_of(payload: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """A stored payload as a row with the columns of a schema, the inverse of `payload_of`; what is missing is None."""
    return {field.name: decoded(payload.get(stored_name(field.name)), field.type) for field in schema}


def encoded(value: Any) -> Any:
    """One value as JSON can hold it; constants of conditions are written in the same way."""
    if isinstance(value, str | int):  # most are
        return value
    return next((write(value) for kind, write in _WRITERS if isinstance(value, kind)), value)


def _float(value: float) -> float | str:
    return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"


def _datetime(value: datetime) -> str:
    at = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    return f"{at.isoformat(timespec='microseconds')}Z"


_WRITERS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (float, _float),
    (datetime, _datetime),  # which is a date, too
    (date, lambda value: f"{value.isoformat()}T00:00:00.000000Z"),
    (time, time.isoformat),
    (timedelta, lambda value: value // _MICROSECOND),
    (Decimal, str),
    (list, lambda value: [encoded(each) for each in value]),
)


def decoded(value: Any, arrow: pa.DataType) -> Any:
    """A value of an Arrow type, from what `encoded` made of it."""
    if value is None:
        return None
    if pa.types.is_list(arrow):
        return [decoded(each, arrow.value_type) for each in value]
    if pa.types.is_timestamp(arrow) and arrow.tz is not None:
        return pa.scalar(datetime.fromisoformat(value), arrow).as_py()
    return next((read(value) for test, read in _READERS if test(arrow)), value)


_READERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_floating, float),
    (pa.types.is_timestamp, lambda value: datetime.fromisoformat(value).replace(tzinfo=None)),
    (pa.types.is_date, lambda value: datetime.fromisoformat(value).date()),
    (pa.types.is_time, time.fromisoformat),
    (pa.types.is_duration, lambda value: value * _MICROSECOND),
    (pa.types.is_decimal, Decimal),
)
