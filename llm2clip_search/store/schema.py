"""Columns of a shard's ``metadata.parquet`` and of ``failures.parquet``."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

METADATA_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # posix, relative to the index's parent if inside it
        pa.field("content_hash", pa.string(), nullable=False),  # BLAKE2b-128 of the file, hex
        pa.field("size", pa.int64(), nullable=False),  # bytes
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # pixels, upright
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string()),  # Pillow's name: JPEG, PNG, ...
        pa.field("taken", pa.timestamp("s")),  # EXIF DateTimeOriginal, the camera's local time
        pa.field("camera", pa.string()),  # EXIF make and model
        pa.field("latitude", pa.float64()),  # degrees, north positive
        pa.field("longitude", pa.float64()),  # degrees, east positive
    ]
)

FAILURE_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # read, header, decode or encode
        pa.field("reason", pa.string(), nullable=False),
    ]
)

TOMBSTONE_SCHEMA = pa.schema(
    [pa.field("shard", pa.string(), nullable=False), pa.field("id", pa.int64(), nullable=False)]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One indexed image, as `METADATA_SCHEMA` stores it."""

    id: int
    path: str
    content_hash: str
    size: int
    mtime_ns: int
    width: int
    height: int
    format: str | None = None
    taken: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One image that could not be indexed, as `FAILURE_SCHEMA` stores it."""

    path: str
    stage: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)
