"""Pictures that were made before: the last ones in memory, more of them in one file that survives a restart.

The file is a cache and nothing else: whatever is wrong with it or its disk costs time, never an answer.
"""

import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from llm2clip_search.server.pictures.rendering import Rendered

_log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

FILE = "pictures-1.sqlite3"
"""Another number is another way of making pictures."""
_BUSY_S = 1.0
"""Seconds to wait for another process that writes."""
_TOUCHED_NS = 24 * 3600 * 10**9
"""Nanoseconds after which reading a picture is written down: not with every read."""
_CHECKED = 64
"""The file is measured after a share of 1 / 64 of its bound was written."""
_KEPT = 0.9
"""Share of the bound that is left when old pictures are removed."""
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS pictures (
        key TEXT PRIMARY KEY, media_type TEXT NOT NULL, data BLOB NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS by_use ON pictures (used, size);
"""


class MemoryCache(Generic[Key]):
    """The pictures that were asked for last, within a bound in bytes; any number of threads may use it."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._held: OrderedDict[Key, Rendered] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key) -> Rendered | None:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def put(self, key: Key, picture: Rendered) -> None:
        with self._lock:
            before = self._held.pop(key, None)
            self._held[key] = picture
            self._bytes += len(picture.data) - (0 if before is None else len(before.data))
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._held.popitem(last=False)[1].data)


class DiskCache:
    """Pictures by key in a SQLite file, within a bound in bytes; those that were not asked for longest go first.

    Any number of threads and processes may use one file. A file that is damaged is made again.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """Nothing is opened before the first call.

        Args:
            folder: made if it is missing; only the user may look into it.
        """
        self._folder, self._max_bytes = folder, max_bytes
        self._written = max_bytes  # so that the first write measures the file
        self._lock = Lock()
        self._opened: sqlite3.Connection | None = None

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Data and media type of a picture; None if it is not there."""
        return self._run(lambda file: self._get(file, key))

    def put(self, key: str, data: bytes, media_type: str) -> None:
        """Remember a picture."""
        if len(data) <= self._max_bytes:
            self._run(lambda file: self._put(file, key, data, media_type))

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            self._close()

    def _get(self, file: sqlite3.Connection, key: str) -> tuple[bytes, str] | None:
        row = file.execute("SELECT data, media_type, used FROM pictures WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if (now := time.time_ns()) - row[2] > _TOUCHED_NS:
            with suppress(sqlite3.OperationalError), file:  # another process writes, or the disk is full
                file.execute("UPDATE pictures SET used = ? WHERE key = ?", (now, key))
        return row[0], row[1]

    def _put(self, file: sqlite3.Connection, key: str, data: bytes, media_type: str) -> None:
        with file:
            row = (key, media_type, data, len(data), time.time_ns())
            file.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?)", row)
            self._written += len(data)
            if self._written > self._max_bytes // _CHECKED:
                self._remove_old(file)
                self._written = 0

    def _remove_old(self, file: sqlite3.Connection) -> None:
        [total] = file.execute("SELECT total(size) FROM pictures").fetchone()
        if total <= self._max_bytes:
            return
        excess = total - _KEPT * self._max_bytes
        freed, last = 0, 0
        for used, size in file.execute("SELECT used, size FROM pictures ORDER BY used"):
            freed, last = freed + size, used
            if freed >= excess:
                break
        file.execute("DELETE FROM pictures WHERE used <= ?", (last,))

    def _run(self, work: Callable[[sqlite3.Connection], tuple[bytes, str] | None]) -> tuple[bytes, str] | None:
        with self._lock:
            try:
                return work(self._file())
            except sqlite3.OperationalError as error:  # locked, full, read only, no such folder
                _log.debug("The cache of pictures in %s cannot be used: %s.", self._folder, error)
                self._close()
            except sqlite3.DatabaseError as error:
                _log.warning("The cache of pictures in %s is damaged, and is made again: %s.", self._folder, error)
                self._discard()
            except OSError as error:
                _log.debug("The cache of pictures in %s cannot be used: %s.", self._folder, error)
        return None

    def _file(self) -> sqlite3.Connection:
        if self._opened is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            opened = sqlite3.connect(self._folder / FILE, timeout=_BUSY_S, check_same_thread=False)
            try:
                opened.execute("PRAGMA journal_mode = WAL")
                opened.execute("PRAGMA synchronous = NORMAL")
                opened.executescript(_SCHEMA)
            except BaseException:
                opened.close()
                raise
            self._opened = opened
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _discard(self) -> None:
        with suppress(sqlite3.Error):
            self._close()
        self._opened = None
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                (self._folder / f"{FILE}{suffix}").unlink()
