"""The list of images and texts that a repair has found lost, until they are in the index again."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.lazy import LazyModule
from llm2clip_search.store.aside import DAMAGED
from llm2clip_search.store.faults import writing
from llm2clip_search.store.schema import parquet_bytes

pq = LazyModule("pyarrow.parquet")

LOST = "lost.parquet"
"""In ``damaged/``: rows of shards that were set aside, as long as they are not in the index again."""
LOST_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # as in the metadata
        pa.field("corpus", pa.string()),  # as in the metadata
        pa.field("modality", pa.string()),  # as in the metadata; null: an image
    ]
)


def lost_images(folder: Path) -> pa.Table:
    """Rows that repairs have found lost, columns of `LOST_SCHEMA`; none if the list cannot be read."""
    path = folder / DAMAGED / LOST
    table = _read(path) if path.exists() else None
    return LOST_SCHEMA.empty_table() if table is None else table


def write_lost_images(folder: Path, table: pa.Table) -> None:
    """Replace the list of lost rows; an empty list is no file."""
    path = folder / DAMAGED / LOST
    with writing(path):
        if path.exists() and _read(path) is None:
            path.rename(path.with_name(f"unreadable-{LOST}"))  # the shards that it was made of are here as well
        if len(table):
            each_once = table.group_by(LOST_SCHEMA.names, use_threads=False).aggregate([])
            replace_file(path, parquet_bytes(each_once))
        else:
            path.unlink(missing_ok=True)


def move_lost_images(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Let the list follow paths that change; ``change`` is as for `Writer.replace_shards`."""
    before = lost_images(folder)
    if len(before) and not (after := change(before)).equals(before):
        write_lost_images(folder, after)


def as_lost(table: pa.Table) -> pa.Table:
    """The columns of `LOST_SCHEMA` of a table of rows; those of earlier schemas, which lack some, are images."""
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(len(table), field.type)
        for field in LOST_SCHEMA
    ]
    return pa.table(columns, schema=LOST_SCHEMA)


def _read(path: Path) -> pa.Table | None:
    """None if it cannot be read."""
    try:
        return as_lost(pq.read_table(path))
    except (OSError, pa.ArrowException):
        return None
