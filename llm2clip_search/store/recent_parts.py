"""Parts of row files that were read last, decoded and compared with their checksums; what a shard holds never changes.

A page of results reads one row each of fifty parts. Of a small index they are the same parts for every page.
"""

from collections import OrderedDict
from threading import Lock

import pyarrow as pa

from llm2clip_search.store.row_files import RowFile

RECENT_BYTES = 16 << 20
"""Of one snapshot: some 75,000 rows of plain metadata."""
Columns = list[tuple[str, pa.Array]]


class RecentParts:
    """The parts of one snapshot's shards that were read last; any number of threads may use it."""

    def __init__(self, max_bytes: int = RECENT_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._held: OrderedDict[tuple[RowFile, int], tuple[Columns, int]] = OrderedDict()
        self._lock = Lock()

    def columns(self, file: RowFile, part: int) -> Columns:
        """The columns of a part that hold anything: each value takes half a microsecond, and most columns hold none.

        Raises:
            OSError, pa.ArrowException: as `RowFile.batch`.
        """
        key = (file, part)
        with self._lock:
            if (found := self._held.get(key)) is not None:
                self._held.move_to_end(key)
                return found[0]
        batch = file.batch(part)
        names, rows, size = batch.schema.names, len(batch), batch.get_total_buffer_size()
        columns = [(name, each) for name, each in zip(names, batch.columns, strict=True) if each.null_count < rows]
        with self._lock:
            if key not in self._held:  # another thread may have read it meanwhile
                self._held[key] = columns, size
                self._bytes += size
            while self._bytes > self._max_bytes:
                self._bytes -= self._held.popitem(last=False)[1][1]
        return columns
