"""Columns of an index's metadata in memory, for the second question about them and all that follow.

DuckDB compares columns in memory 3 to 10 times as fast as it reads them from Parquet. A process that filters once does
not need them, so the first condition is answered from the files.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any

from llm2clip_search.base.memory import physical_bytes
from llm2clip_search.engine.time_limit import time_limit
from llm2clip_search.store import Snapshot

MEMORY_SHARE = 1 / 8
"""Columns are held while they take at most this share of the machine's memory."""
_TABLE = "held"
_CELL_BYTES = 16
"""What DuckDB takes for a short text, and the most for any other value; text of over 12 bytes lies outside its cell."""


class HeldColumns:
    """A table of the live rows with the columns that were asked for; may be used by several threads."""

    def __init__(self, snapshot: Snapshot, columns: Sequence[str], *, view: str) -> None:
        """``columns`` of ``view`` may be held."""
        self._snapshot, self._view = snapshot, view
        self._names = {name.casefold(): name for name in columns}
        self._loading = Lock()
        self._held: frozenset[str] = frozenset()
        self._slow: frozenset[str] = frozenset()
        """Columns that took longer to load than a session allows; `hold` loads them nevertheless."""
        self._is_first = True

    def source(self, cursor: Any, used: frozenset[str], seconds: float) -> str:
        """Name of the table or view to read some columns from.

        Args:
            cursor: of the database with the view; it loads the table if that is due.
            used: columns as a condition spells them.
            seconds: how long loading may take; after them, the files are read instead.
        """
        import duckdb

        wanted = frozenset(self._names[name.casefold()] for name in used if name.casefold() in self._names)
        if self._is_first or not used or len(wanted) < len(used):
            self._is_first = False
            return self._view
        if wanted <= self._held:
            return _TABLE
        if wanted & self._slow or not self._fits(self._held | wanted):
            return self._view
        if not self._loading.acquire(blocking=False):  # by another thread: reading the files is quicker than waiting
            return self._view
        try:
            with time_limit(cursor, seconds):
                self._load(cursor, wanted)
        except duckdb.InterruptException:
            self._slow |= wanted
            return self._view
        finally:
            self._loading.release()
        return _TABLE

    def hold(self, cursor: Any, columns: frozenset[str]) -> None:
        """Load those of some columns that may be held, however long that takes, one by one until memory is short."""
        with self._loading:
            wanted = [self._names[name.casefold()] for name in sorted(columns) if name.casefold() in self._names]
            fitting = self._held
            for name in wanted:
                if self._fits(fitting | {name}):
                    fitting |= {name}
            if not fitting <= self._held:
                self._load(cursor, fitting)
            self._is_first = False

    def _load(self, cursor: Any, wanted: frozenset[str]) -> None:
        """Replace the table; whoever calls has the lock.

        Threads that read the table keep their version of it, and columns are only ever added.
        """
        columns = self._held | wanted
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in sorted(columns | {"id"}))
        cursor.execute(f"CREATE OR REPLACE TABLE {_TABLE} AS SELECT {names} FROM {self._view}")
        self._held = columns

    def _fits(self, columns: frozenset[str]) -> bool:
        """By an upper bound on what the table takes: all text may be in these columns."""
        files = sum(shard.metadata_path.stat().st_size for shard in self._snapshot.shards)
        cells = (len(columns) + 1) * _CELL_BYTES + len(self._snapshot.base.as_posix())
        return 2 * files + self._snapshot.manifest.live * cells <= MEMORY_SHARE * physical_bytes()
