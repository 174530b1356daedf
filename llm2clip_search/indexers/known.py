"""What an index knows already, in 76 bytes per row: enough to tell new, changed, moved and unchanged items apart."""

import sqlite3
import weakref
from array import array
from collections.abc import Iterable
from threading import Lock

import numpy as np
import pyarrow as pa

from llm2clip_search.corpora import Item
from llm2clip_search.corpora.companions import SIDECAR
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.corpora.decode import content_key
from llm2clip_search.corpora.joined import JOIN
from llm2clip_search.errors import StoreError
from llm2clip_search.store import Snapshot

_OF_SIDECAR, _OF_TABLE = 1, 2
KNOWN_COLUMNS = ["id", "path", "content_hash", "size", "mtime_ns", "version", "described", "modality"]
"""What is read of a row."""


class KnownRows:
    """The live rows of a snapshot as arrays, found by path and by content.

    Paths and versions are held as 64-bit hashes: two of ten million paths share one with a probability of 3e-6, and a
    row is taken for another only if size and time agree as well. Ten million dictionaries would take 17 GB.

    Attributes:
        ids, sizes, mtimes: int64 ``[rows]``.
        contents: uint64 ``[rows]``, the first half of the content hash.
        are_texts: bool ``[rows]``.
        present: bool ``[rows]``, for the caller to mark rows whose item is there.
        awaited: bool ``[rows]``, for the caller to mark parts of containers that are about to be listed.
        are_files: bool ``[rows]``, for the caller to mark files whose names look like those of parts.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._read(shard.read(KNOWN_COLUMNS).take(pa.array(shard.live_rows)) for shard in snapshot.shards)

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> "KnownRows":
        """Some rows of an index, in tables with `KNOWN_COLUMNS`."""
        known = cls.__new__(cls)
        known._read(tables)
        return known

    def _read(self, tables: Iterable[pa.Table]) -> None:
        containers = array("q")
        read = [_read(table, containers) for table in tables if len(table)]
        columns = np.concatenate(read, axis=1) if read else np.empty((8, 0), dtype=np.int64)
        by_path = np.argsort(columns[0], kind="stable")
        columns = columns[:, by_path]
        self._paths = columns[0]
        self.ids, self.sizes, self.mtimes, self._versions = columns[2], columns[3], columns[4], columns[5]
        self._descriptions, self.are_texts = columns[6], columns[7].astype(bool)
        self._containers = _Groups(containers, self.ids)
        self.contents = columns[1].view(np.uint64)
        self.present = np.zeros(len(self.ids), dtype=bool)
        self.awaited = np.zeros(len(self.ids), dtype=bool)
        self.are_files = np.zeros(len(self.ids), dtype=bool)
        self._by_content = np.argsort(self.contents, kind="stable")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sorted_contents(self) -> np.ndarray:
        """`contents`, ascending."""
        contents: np.ndarray = self.contents[self._by_content]
        return contents

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

    def parts_of(self, path: str, modality: Modality) -> np.ndarray:
        """Positions of the rows of a container with a stored path, int64 ascending."""
        rows = self._containers.of(hash(path))
        found: np.ndarray = rows[(self.are_texts[rows] == (modality == "text")) & ~self.are_files[rows]]
        return found

    def is_described(self, row: int, item: Item, *, sees_sidecars: bool = False, sees_tables: bool = False) -> bool:
        """True if a row has the columns that the corpus has for its item, or the corpus has none.

        Args:
            sees_sidecars: the corpus would have columns if there were a sidecar, so those of one that is gone are old.
            sees_tables: the same of a table that is joined.
        """
        mark = self._descriptions[row]
        if not item.described:
            return not (mark & _OF_SIDECAR and sees_sidecars) and not (mark & _OF_TABLE and sees_tables)
        return bool(mark == _mark(item.described))

    def has_columns(self, row: int) -> bool:
        """True if a row has columns that its corpus has brought along."""
        return bool(self._descriptions[row])

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
    """Contents that a run has embedded so far, with the ids of their rows: in a temporary file, because a run may embed
    any number, with a cache of 2 MB.

    Read by many threads and written by one.
    """

    def __init__(self) -> None:
        # SQLite removes the file when the connection is closed; a transaction that never ends is never flushed.
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("CREATE TABLE embedded (content INTEGER PRIMARY KEY, id INTEGER NOT NULL)")
        self._file.execute("BEGIN")
        self._lock = Lock()
        weakref.finalize(self, self._file.close)

    def add(self, content_hash: str, row_id: int) -> None:
        """Remember the row of a content."""
        self._ask("INSERT OR REPLACE INTO embedded VALUES (?, ?)", content_hash, row_id)

    def find(self, content_hash: str) -> int:
        """Id of the row of a content; -1 if the run has not embedded it."""
        found = self._ask("SELECT id FROM embedded WHERE content = ?", content_hash)
        return -1 if found is None else found[0]

    def _ask(self, statement: str, content_hash: str, *values: int) -> tuple[int] | None:
        key = int(content_key(content_hash).view(np.int64))
        try:
            with self._lock:
                found: tuple[int] | None = self._file.execute(statement, (key, *values)).fetchone()
        except sqlite3.Error as error:
            raise StoreError(
                f"The temporary file with what is embedded cannot be written: {error}.",
                hint="Make room on the disk of temporary files, or name another folder by SQLITE_TMPDIR.",
            ) from error
        return found


class _Groups:
    """Positions of rows by a key that several of them have."""

    def __init__(self, pairs: "array[int]", ids: np.ndarray) -> None:
        """Keys, each followed by the id of a row; ``ids`` are those of all rows, by position."""
        keyed = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        order = np.argsort(ids, kind="stable")
        rows = order[np.searchsorted(ids, keyed[:, 1], sorter=order)] if len(keyed) else keyed[:, 1]
        by_key = np.lexsort((rows, keyed[:, 0]))
        self._keys, self._rows = keyed[by_key, 0], rows[by_key]

    def of(self, key: int) -> np.ndarray:
        """int64 ascending."""
        first, last = np.searchsorted(self._keys, key), np.searchsorted(self._keys, key, side="right")
        found: np.ndarray = self._rows[first:last]
        return found


class Completed:
    """Containers that earlier runs have read to their end, in 32 bytes each."""

    def __init__(self, table: pa.Table) -> None:
        """A table of `store.schema.CONTAINER_SCHEMA`."""
        self.table = table
        names = zip(*(table.column(name).to_pylist() for name in ("path", "modality", "version")), strict=True)
        keys = np.array([[hash(each[:2]), hash(each[2])] for each in names], dtype=np.int64).reshape(-1, 2)
        self._order = np.argsort(keys[:, 0], kind="stable")
        self._keys, self._versions = keys[self._order, 0], keys[self._order, 1]
        self._rows = table.column("rows").to_numpy()[self._order]
        self.listed = np.zeros(len(table), dtype=bool)
        """For the caller to mark containers that are still there, in the order of the table."""

    def find(self, path: str, modality: Modality) -> int:
        """Position of a container; -1 if no run has read it to its end."""
        key = hash((path, modality))
        at = int(np.searchsorted(self._keys, key))
        return at if at < len(self._keys) and self._keys[at] == key else -1

    def is_unchanged(self, position: int, version: str, rows: int) -> bool:
        """True if a container has the version that was read, and the index has all rows of it."""
        return bool(version) and bool(self._versions[position] == hash(version) and self._rows[position] == rows)

    def is_listed(self, position: int) -> bool:
        """True for a container that was marked."""
        return bool(self.listed[self._order[position]])

    def mark(self, position: int) -> None:
        """Note that a container is still there, as it was."""
        self.listed[self._order[position]] = True


def _mark(described: str) -> int:
    """Key of a description, which says whether a sidecar or a joined table has part in it."""
    of_sidecar, of_table = _OF_SIDECAR * described.startswith(SIDECAR), _OF_TABLE * (JOIN in described)
    return hash(described) & ~(_OF_SIDECAR | _OF_TABLE) | of_sidecar | of_table


def _read(table: pa.Table, containers: "array[int]") -> np.ndarray:
    """int64 ``[8, rows]``: hashes of path, content, id, size, time, hashes of version and description (0 for none), 1
    for a text. Adds hashes of containers, each followed by the id of a part."""
    out = np.zeros((8, len(table)), dtype=np.int64)
    paths = table.column("path").to_pylist()
    out[0] = [hash(path) for path in paths]
    out[1] = np.array([content_key(each) for each in table.column("content_hash").to_pylist()], np.uint64).view(
        np.int64
    )
    for row, name in enumerate(("id", "size", "mtime_ns"), start=2):
        out[row] = table.column(name).to_numpy()
    for row, name, key in ((5, "version", hash), (6, "described", _mark)):
        if name in table.column_names:
            out[row] = [key(mark) if mark else 0 for mark in table.column(name).to_pylist()]
    if "modality" in table.column_names:
        out[7] = [modality == "text" for modality in table.column("modality").to_pylist()]
    for path, identifier in zip(paths, out[2].tolist(), strict=True):
        if "#" in path:  # which of them ends the container's name is for whoever asks
            for at, letter in enumerate(path):
                if letter == "#":
                    containers.extend((hash(path[:at]), identifier))
    return out
