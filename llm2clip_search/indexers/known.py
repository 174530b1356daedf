"""What an index knows already, in 56 bytes per row: enough to tell new, changed, moved and unchanged items apart."""

import numpy as np
import pyarrow as pa

from llm2clip_search.corpora import Item
from llm2clip_search.store import Snapshot

_RECENT = 4096
"""Contents in a dictionary before they are sorted into an array."""
_COLUMNS = ["id", "path", "content_hash", "size", "mtime_ns", "version"]


class KnownRows:
    """The live rows of a snapshot as arrays, found by path and by content.

    Paths and versions are held as 64-bit hashes: two of ten million paths share one with a probability of 3e-6, and a
    row is taken for another only if size and time agree as well. Ten million dictionaries would take 17 GB.

    Attributes:
        ids, sizes, mtimes: int64 ``[rows]``.
        contents: uint64 ``[rows]``, the first half of the content hash.
        present: bool ``[rows]``, for the caller to mark rows whose item is there.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        parts = [_read(shard.read(_COLUMNS).take(pa.array(shard.live_rows))) for shard in snapshot.shards]
        nothing = np.empty((6, 0), dtype=np.int64)
        columns = np.concatenate(parts, axis=1) if parts else nothing
        columns = columns[:, np.argsort(columns[0], kind="stable")]
        self._paths = columns[0]
        self.ids, self.sizes, self.mtimes, self._versions = columns[2], columns[3], columns[4], columns[5]
        self.contents = columns[1].view(np.uint64)
        self.present = np.zeros(len(self.ids), dtype=bool)
        self._by_content = np.argsort(self.contents, kind="stable")

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, path: str) -> int:
        """Position of the row with a stored path; -1 if there is none."""
        key = hash(path)
        position = int(np.searchsorted(self._paths, key))
        return position if position < len(self) and self._paths[position] == key else -1

    def find_content(self, content_hash: str) -> int:
        """Position of a row with the same content; -1 if there is none."""
        key = content_key(content_hash)
        position = int(np.searchsorted(self.contents, key, side="right", sorter=self._by_content)) - 1
        row = int(self._by_content[position]) if position >= 0 else -1
        return row if row >= 0 and self.contents[row] == key else -1

    def is_unchanged(self, row: int, item: Item) -> bool:
        """True if an item need not be read: its size, as far as it is known, and its version are those of its row."""
        if item.size and item.size != self.sizes[row]:
            return False
        if item.version and self._versions[row]:
            return self.has_version(row, item)
        # Rows of schema 1 have no version, but a time; without either, an item may have changed.
        return bool(item.mtime_ns) and bool(self.mtimes[row] == item.mtime_ns)

    def has_version(self, row: int, item: Item) -> bool:
        """True if a row was written with the version that an item has now."""
        version = self._versions[row]
        if version == (hash(item.version) if item.version else 0):
            return True
        return bool(item.former_version) and bool(version == hash(item.former_version))

    def with_content(self, content_hash: str) -> np.ndarray:
        """Positions of the rows with the same content, int64."""
        key = content_key(content_hash)
        first, last = (int(np.searchsorted(self.contents, key, s, sorter=self._by_content)) for s in ("left", "right"))
        rows: np.ndarray = self._by_content[first:last]
        return rows


class Embedded:
    """Contents that a run has embedded so far, with the ids of their rows, in 16 bytes each.

    Read by many threads and written by one.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._sorted: list[np.ndarray] = []
        """uint64 ``[2, n]`` each, keys ascending and their ids; each at least twice as long as the next."""

    def add(self, content_hash: str, row_id: int) -> None:
        """Remember the row of a content."""
        self._recent[int(content_key(content_hash))] = row_id
        if len(self._recent) < _RECENT:
            return
        merged = np.array([[*self._recent], [*self._recent.values()]], dtype=np.uint64)
        kept = list(self._sorted)
        while kept and kept[-1].shape[1] < 2 * merged.shape[1]:
            merged = np.concatenate([kept.pop(), merged], axis=1)
        # A reader that does not find a content in the dictionary looks here next, so this is replaced first.
        self._sorted = [*kept, merged[:, np.argsort(merged[0], kind="stable")]]
        self._recent = {}

    def find(self, content_hash: str) -> int:
        """Id of the row of a content; -1 if the run has not embedded it."""
        key = content_key(content_hash)
        if (recent := self._recent.get(int(key))) is not None:
            return recent
        for keys, ids in self._sorted:
            at = int(np.searchsorted(keys, key))
            if at < len(keys) and keys[at] == key:
                return int(ids[at])
        return -1


def content_key(content_hash: str) -> np.uint64:
    """The first half of a content hash, BLAKE2b-128 in hex."""
    return np.uint64(int(content_hash[:16] or "0", 16))


def _read(table: pa.Table) -> np.ndarray:
    """int64 ``[6, rows]``: hashes of path, content, id, size, time, hash of the version (0 for none)."""
    out = np.empty((6, len(table)), dtype=np.int64)
    out[0] = [hash(path) for path in table.column("path").to_pylist()]
    out[1] = np.array([content_key(each) for each in table.column("content_hash").to_pylist()], np.uint64).view(
        np.int64
    )
    for row, name in enumerate(("id", "size", "mtime_ns"), start=2):
        out[row] = table.column(name).to_numpy()
    versions = table.column("version").to_pylist() if "version" in table.column_names else [None] * len(table)
    out[5] = [hash(version) if version else 0 for version in versions]
    return out
