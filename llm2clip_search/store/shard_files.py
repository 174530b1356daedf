"""Writing the files of a shard: complete and flushed under a temporary name, then renamed."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llm2clip_search.base.files import file_sha256, fsync_path
from llm2clip_search.store.manifest import ShardEntry
from llm2clip_search.store.paths import ABSOLUTE
from llm2clip_search.store.row_files import write_rows
from llm2clip_search.store.schema import UNIQUE
from llm2clip_search.store.shard import METADATA, ROWS, VECTORS

ROW_GROUP = 2048
"""Rows per Parquet row group: a filter skips those that its statistics rule out."""


def write_shard(folder: Path, table: pa.Table, blocks: Iterable[np.ndarray], *, dim: int, dtype: str) -> ShardEntry:
    """Write a shard; on an error nothing of it is left.

    Args:
        table: its metadata, with at least one row.
        blocks: its vectors ``[m, dim]``, in order.

    Raises:
        OSError: it cannot be written.
    """
    folder.parent.mkdir(exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        digests = _write_files(temporary, table, blocks, dim=dim, dtype=np.dtype(dtype))
        # There is one if a commit could not write its manifest and is tried again.
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        fsync_path(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # it may have filled the disk
        raise
    ids = table.column("id").to_numpy()
    return ShardEntry(
        name=folder.name,
        rows=len(ids),
        first_id=int(ids.min()),
        last_id=int(ids.max()),
        relative=are_relative(table.column("path")),
        sha256=digests,
    )


def are_relative(paths: pa.ChunkedArray) -> bool:
    """True if every path is relative to the base."""
    return not pc.any(pc.match_substring_regex(paths, ABSOLUTE)).as_py()


def _write_files(
    folder: Path, table: pa.Table, blocks: Iterable[np.ndarray], *, dim: int, dtype: np.dtype
) -> dict[str, str]:
    """Write and flush the files; returns their checksums."""
    with (folder / VECTORS).open("wb") as file:
        # One block after the other: a merged shard may be larger than memory. Written, not mapped: a full disk is an
        # error of a write, but kills a process that has the file mapped.
        descr = np.lib.format.dtype_to_descr(dtype)
        header = {"shape": (len(table), dim), "fortran_order": False, "descr": descr}
        np.lib.format.write_array_header_1_0(file, header)
        written = 0
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).data)
            written += len(block)
    assert written == len(table), "one vector per row"
    repeated = [name for name in table.column_names if name not in UNIQUE]
    options = {"row_group_size": ROW_GROUP, "use_dictionary": repeated, "write_page_checksum": True}
    pq.write_table(table, folder / METADATA, **options)
    write_rows(folder / ROWS, table)
    digests = {file: file_sha256(folder / file) for file in (VECTORS, METADATA, ROWS)}
    for name in digests:
        fsync_path(folder / name)
    fsync_path(folder)
    return digests
