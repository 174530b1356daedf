"""Writing the files of a shard: complete and flushed under a temporary name, then renamed."""

import os
import shutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.base.files import file_sha256, fsync_path, make_folder
from llm2clip_search.base.lazy import LazyModule
from llm2clip_search.store.manifest import ShardEntry
from llm2clip_search.store.paths import ABSOLUTE
from llm2clip_search.store.row_files import row_writer
from llm2clip_search.store.schema import UNIQUE
from llm2clip_search.store.shard import METADATA, ROWS, VECTORS

pc = LazyModule("pyarrow.compute")
pq = LazyModule("pyarrow.parquet")

ROW_GROUP = 2048
"""Rows per Parquet row group: a filter skips those that its statistics rule out."""


def write_shard(
    folder: Path, tables: Iterable[pa.Table], blocks: Iterable[np.ndarray], *, rows: int, dim: int, dtype: str
) -> ShardEntry:
    """Write a shard; on an error nothing of it is left. Memory holds one table, or one block.

    Args:
        tables: its metadata, in order: tables of a multiple of `ROW_GROUP` rows, but for the last one.
        blocks: its vectors ``[m, dim]``, in order.
        rows: how many there are, at least one.

    Raises:
        OSError: it cannot be written.
    """
    make_folder(folder.parent)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        _write_vectors(temporary / VECTORS, blocks, rows=rows, dim=dim, dtype=np.dtype(dtype))
        first_id, last_id, relative = _write_metadata(temporary, tables, rows=rows)
        digests = {file: file_sha256(temporary / file) for file in (VECTORS, METADATA, ROWS)}
        for name in digests:
            fsync_path(temporary / name)
        fsync_path(temporary)
        # There is one if a commit could not write its manifest and is tried again.
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        fsync_path(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # it may have filled the disk
        raise
    return ShardEntry(
        name=folder.name, rows=rows, first_id=first_id, last_id=last_id, relative=relative, sha256=digests
    )


def are_relative(paths: pa.ChunkedArray) -> bool:
    """True if every path is relative to the base."""
    return not pc.any(pc.match_substring_regex(paths, ABSOLUTE)).as_py()


def _write_vectors(path: Path, blocks: Iterable[np.ndarray], *, rows: int, dim: int, dtype: np.dtype) -> None:
    # Written, not mapped: a full disk is an error of a write, but kills a process that has the file mapped.
    with path.open("wb") as file:
        descr = np.lib.format.dtype_to_descr(dtype)
        header = {"shape": (rows, dim), "fortran_order": False, "descr": descr}
        np.lib.format.write_array_header_1_0(file, header)
        written = 0
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).data)
            written += len(block)
    assert written == rows, "one vector per row"


def _write_metadata(folder: Path, tables: Iterable[pa.Table], *, rows: int) -> tuple[int, int, bool]:
    """Write the metadata twice; returns the first and the last id, and whether all paths are relative."""
    tables = iter(tables)
    first = next(tables)
    options = {
        "use_dictionary": [name for name in first.column_names if name not in UNIQUE],
        "write_page_checksum": True,
    }
    ids, relative, written = list[int](), True, 0
    with (
        pq.ParquetWriter(folder / METADATA, first.schema, **options) as parquet,
        row_writer(folder / ROWS, first.schema) as write,
    ):
        for table in chain([first], tables):
            parquet.write_table(table, row_group_size=ROW_GROUP)
            write(table)
            ids += pc.min_max(table.column("id")).as_py().values()
            relative = relative and are_relative(table.column("path"))
            written += len(table)
    assert written == rows, "one row of metadata per vector"
    return min(ids), max(ids), relative
