"""Columns of a shard's ``metadata.parquet`` and of ``failures.parquet``."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm2clip_search.base.identity import ModelIdentity, json_sha256
from llm2clip_search.base.lazy import LazyModule
from llm2clip_search.store.manifest import ColumnEntry

pq = LazyModule("pyarrow.parquet")

METADATA_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # posix, relative to the index's parent if inside it
        pa.field("content_hash", pa.string(), nullable=False),  # BLAKE2b-128 of the file, hex
        pa.field("size", pa.int64(), nullable=False),  # bytes
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("width", pa.int32()),  # pixels, upright; null for texts
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),  # Pillow's name: JPEG, PNG, ...
        pa.field("taken", pa.timestamp("s")),  # EXIF DateTimeOriginal, the camera's local time
        pa.field("camera", pa.string()),  # EXIF make and model
        pa.field("latitude", pa.float64()),  # degrees, north positive
        pa.field("longitude", pa.float64()),  # degrees, east positive
        pa.field("corpus", pa.string()),  # path or URI of the corpus that it came from; null before schema 2
        pa.field("version", pa.string()),  # the corpus's own mark of an unchanged item; null if it has none
        pa.field("damage", pa.string()),  # what is wrong with a file that is indexed nevertheless; null if it is sound
        pa.field("modality", pa.string()),  # image or text; null before schema 5, which knew images only
        pa.field("text", pa.string()),  # the passage itself; null for images
        pa.field("caption", pa.string()),  # what the source, a sidecar or the file says of it
        pa.field("rating", pa.int32()),  # stars, 0 to 5; -1 for rejected
        pa.field("keywords", pa.list_(pa.string())),
        pa.field("described", pa.string()),  # the corpus's mark of unchanged columns; null if it brings none along
    ]
)
"""The fixed columns; `metadata_schema` adds those that corpora brought along."""

UNIQUE = frozenset({"id", "path", "content_hash", "size", "mtime_ns", "version", "text", "caption", "described"})
"""Columns whose values hardly repeat: dictionaries of them take space, and time of whoever reads them."""

FAILURE_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # read, header, decode or encode
        pa.field("reason", pa.string(), nullable=False),
        pa.field("corpus", pa.string()),  # as of a row; null before schema 5
    ]
)

CONTAINER_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # as of a row, without the part
        pa.field("modality", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),  # live ones when it was read to its end
    ]
)
"""Columns of ``containers.parquet``, which nothing depends on: without an entry a container is listed again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One indexed image or text, as `METADATA_SCHEMA` stores it."""

    id: int
    path: str
    content_hash: str
    size: int
    mtime_ns: int
    width: int | None = None
    height: int | None = None
    format: str | None = None
    taken: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    corpus: str | None = None
    version: str | None = None
    damage: str | None = None
    modality: str = "image"
    text: str | None = None
    caption: str | None = None
    rating: int | None = None
    keywords: list[str] | None = None
    described: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The values themselves: `asdict` would copy each of them, in every row of an index."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One image that could not be indexed, as `FAILURE_SCHEMA` stores it."""

    path: str
    stage: str
    reason: str
    corpus: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)


def metadata_schema(columns: Iterable[ColumnEntry]) -> pa.Schema:
    """The fixed columns and those that corpora brought along, nullable."""
    fixed = [field.with_nullable(True) for field in METADATA_SCHEMA]
    return pa.schema([*fixed, *(column_field(column) for column in columns)])


_MADE_BY = b"llm2clip-search"
"""Key in the schema of a shard's files under which they name their model."""


def described(table: pa.Table, model: ModelIdentity) -> pa.Table:
    """A table whose files say which model made the vectors beside it, so that an index can outlive its manifest."""
    return table.replace_schema_metadata({_MADE_BY: json.dumps(model.to_dict()).encode()})


def maker(schema: pa.Schema) -> ModelIdentity | None:
    """The model that a shard's schema names; None if an earlier version wrote it."""
    described = (schema.metadata or {}).get(_MADE_BY)
    return None if described is None else ModelIdentity(**json.loads(described))


def column_entry(field: pa.Field) -> ColumnEntry:
    """How a manifest names a column."""
    return ColumnEntry(
        name=field.name,
        type=str(field.type),
        arrow=base64.b64encode(pa.schema([field.remove_metadata()]).serialize().to_pybytes()).decode(),
    )


_ROWS_SHA256 = b"llm2clip-search rows"
"""Key in the schema of the failures under which their checksum is."""


def failure_bytes(failures: Sequence[Failure]) -> bytes:
    """Failures as a Parquet file, which `read_failures` reads."""
    rows = [failure.to_dict() for failure in failures]
    table = pa.Table.from_pylist(rows, schema=FAILURE_SCHEMA)
    return parquet_bytes(table.replace_schema_metadata({_ROWS_SHA256: json_sha256(rows).encode()}))


def read_failures(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of failures; those of earlier versions have no checksum.

    Raises:
        OSError, ValueError, pa.ArrowException: it cannot be read, or is damaged.
    """
    table = pq.read_table(path, page_checksum_verification=True)
    table.validate(full=True)
    if any(not pa.types.is_string(field.type) or field.name not in FAILURE_SCHEMA.names for field in table.schema):
        raise pa.ArrowInvalid("its columns are not those of failures")
    rows: list[dict[str, Any]] = table.to_pylist()
    written = (table.schema.metadata or {}).get(_ROWS_SHA256)
    if written is not None and written != json_sha256(rows).encode():
        raise pa.ArrowInvalid("its rows differ from their checksum")
    return rows


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file, for `replace_file`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return bytes(sink.getvalue().to_pybytes())


def column_field(column: ColumnEntry) -> pa.Field:
    """The column that a manifest names."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(column.arrow))).field(0).with_nullable(True)
