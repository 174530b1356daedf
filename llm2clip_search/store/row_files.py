"""Reading a few rows of a shard's metadata.

Filters read whole columns, which Parquet is made for. A page of results reads all columns of ten rows, for which
Parquet has to decode thousands. So a shard holds its metadata twice: ``rows.arrow`` is an Arrow file of small
compressed batches.
"""

import zlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.base.mapping import map_file

BATCH_ROWS = 256
"""Rows per batch: reading one takes 0.05 ms, and smaller ones compress less."""


CHECKSUM = b"crc32"
"""Key in the metadata of a batch; batches that schemas before 4 wrote have none."""


def _crc32(batch: pa.RecordBatch) -> bytes:
    """Checksum of a batch as Arrow serialises it, uncompressed."""
    return b"%d" % zlib.crc32(batch.serialize())


class RowFile(Protocol):
    """A file of rows in parts that are read one by one."""

    @property
    def sizes(self) -> np.ndarray:
        """int64, the rows of each part."""

    def read(self, parts: list[int]) -> pa.Table:
        """The rows of some parts, in the order given."""


def write_rows(path: Path, table: pa.Table) -> None:
    """Write rows for `ArrowRows`."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema, options=options) as writer:
        for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
            writer.write_batch(batch, custom_metadata={CHECKSUM: _crc32(batch)})


class ArrowRows:
    """An Arrow file, mapped; its batches are the parts."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self.sizes = np.diff([*range(0, rows, BATCH_ROWS), rows])

    @cached_property
    def _file(self) -> Any:
        # Threads for the columns of a batch this small take longer than decoding it.
        mapped = pa.py_buffer(map_file(self._path))
        return pa.ipc.open_file(mapped, options=pa.ipc.IpcReadOptions(use_threads=False))

    def read(self, parts: list[int]) -> pa.Table:
        return pa.Table.from_batches([self._checked(part) for part in parts])

    def _checked(self, part: int) -> Any:
        """A batch that is safe to read, and what was written: offsets of a damaged file may point anywhere. Those at
        the ends of buffers are compared with their sizes before all bytes are with their checksum."""
        batch, written = self._file.get_batch_with_custom_metadata(part)
        if written is None or CHECKSUM not in written:
            batch.validate(full=True)
            return batch
        batch.validate()
        if written[CHECKSUM] != _crc32(batch):
            raise pa.ArrowInvalid("its rows differ from their checksum")
        return batch


class ParquetRows:
    """A Parquet file, for shards of earlier schemas; its row groups are the parts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _footer(self) -> pq.FileMetaData:
        """Parsed once: the footer of a large shard takes longer to read than the rows of a few hits."""
        return pq.read_metadata(self._path)

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.array([self._footer.row_group(number).num_rows for number in range(self._footer.num_row_groups)])

    def read(self, parts: list[int]) -> pa.Table:
        with pq.ParquetFile(self._path, metadata=self._footer) as file:
            return file.read_row_groups(parts)
