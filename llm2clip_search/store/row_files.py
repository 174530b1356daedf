"""Reading a few rows of a shard's metadata.

Filters read whole columns, which Parquet is made for. A page of results reads all columns of ten rows, for which
Parquet has to decode thousands. So a shard holds its metadata twice: ``rows.arrow`` is an Arrow file of small
compressed batches.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.base.lazy import LazyModule
from llm2clip_search.base.mapping import map_file
from llm2clip_search.store.faults import unreadable

pq = LazyModule("pyarrow.parquet")

BATCH_ROWS = 256
"""Rows per batch: reading one takes 0.05 ms, and smaller ones compress less."""


CHECKSUM = b"crc32"
"""Key in the metadata of a batch; batches that schemas before 4 wrote have none."""


def _crc32(batch: pa.RecordBatch) -> bytes:
    """Checksum of a batch as Arrow serialises it, uncompressed."""
    return b"%d" % zlib.crc32(batch.serialize())


class RowFile(ABC):
    """A file of rows in parts that are read one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def sizes(self) -> np.ndarray:
        """int64, the rows of each part."""

    @abstractmethod
    def read(self, parts: list[int]) -> pa.Table:
        """The rows of some parts, in the order given."""

    @abstractmethod
    def batch(self, part: int) -> pa.RecordBatch:
        """The rows of one part; values of a batch are read twice as fast as those of a table."""

    @cached_property
    def _starts(self) -> np.ndarray:
        """First row of each part, int64."""
        starts: np.ndarray = np.cumsum(self.sizes) - self.sizes
        return starts

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part that each of some rows is in, and its place there, int64."""
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        return parts, rows - self._starts[parts]

    def take(self, rows: np.ndarray) -> pa.Table:
        """Some rows, in the order given; only their parts are read."""
        parts, places = self.places(rows)
        wanted = np.unique(parts)
        starts = np.cumsum(self.sizes[wanted]) - self.sizes[wanted]
        return self.read(wanted.tolist()).take(pa.array(starts[np.searchsorted(wanted, parts)] + places))

    @contextmanager
    def reading(self) -> Iterator["RowFile"]:
        """The file itself.

        Raises:
            DamagedError: it is missing, or damaged where it is read.
        """
        try:
            yield self
        except (OSError, IndexError, pa.ArrowException) as error:
            raise unreadable(self.path, error) from error


@contextmanager
def row_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Writes rows for `ArrowRows`, some after the other: a multiple of `BATCH_ROWS`, but for the last ones."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:

        def write(table: pa.Table) -> None:
            for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
                writer.write_batch(batch, custom_metadata={CHECKSUM: _crc32(batch)})

        yield write


class ArrowRows(RowFile):
    """An Arrow file, mapped; its batches are the parts."""

    def __init__(self, path: Path, rows: int) -> None:
        super().__init__(path)
        self._rows = rows

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.diff([*range(0, self._rows, BATCH_ROWS), self._rows])

    @cached_property
    def _file(self) -> Any:
        # Threads for the columns of a batch this small take longer than decoding it.
        mapped = pa.py_buffer(map_file(self.path))
        return pa.ipc.open_file(mapped, options=pa.ipc.IpcReadOptions(use_threads=False))

    def read(self, parts: list[int]) -> pa.Table:
        return pa.Table.from_batches([self.batch(part) for part in parts])

    def batch(self, part: int) -> pa.RecordBatch:
        """As of `RowFile`, and safe to read: offsets of a damaged file may point anywhere. Those at the ends of buffers
        are compared with their sizes before all bytes are with their checksum."""
        batch, written = self._file.get_batch_with_custom_metadata(part)
        if written is None or CHECKSUM not in written:
            batch.validate(full=True)
            return batch
        batch.validate()
        if written[CHECKSUM] != _crc32(batch):
            raise pa.ArrowInvalid("its rows differ from their checksum")
        return batch


class ParquetRows(RowFile):
    """A Parquet file; its row groups are the parts."""

    @cached_property
    def _footer(self) -> Any:
        """Parsed once: the footer of a large shard takes longer to read than the rows of a few hits."""
        return pq.read_metadata(self.path)

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.array([self._footer.row_group(number).num_rows for number in range(self._footer.num_row_groups)])

    def read(self, parts: list[int]) -> pa.Table:
        with pq.ParquetFile(self.path, metadata=self._footer, page_checksum_verification=True) as file:
            # Threads, of which each has memory of its own, gain nothing for a few thousand rows.
            return file.read_row_groups(parts, use_threads=False)

    def batch(self, part: int) -> pa.RecordBatch:
        [batch] = self.read([part]).combine_chunks().to_batches()
        return batch
