"""One committed shard: its ids, its memory-mapped vectors and its metadata."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.base.lazy import LazyModule
from llm2clip_search.base.mapping import map_array
from llm2clip_search.errors import DamagedError
from llm2clip_search.store.checked import CheckedFiles
from llm2clip_search.store.faults import unreadable
from llm2clip_search.store.manifest import ShardEntry
from llm2clip_search.store.recent_parts import RecentParts
from llm2clip_search.store.row_files import ArrowRows, ParquetRows, RowFile

pq = LazyModule("pyarrow.parquet")

VECTORS = "embeddings.npy"
METADATA = "metadata.parquet"
ROWS = "rows.arrow"


class Shard:
    """A shard with the rows of it that are dead; immutable, but for what it has read."""

    def __init__(
        self, folder: Path, entry: ShardEntry, dead: np.ndarray, dim: int, checked: CheckedFiles | None = None
    ) -> None:
        """Without ``checked`` files are read as they are, for a repair."""
        self.folder, self.entry = folder, entry
        self.dead = dead
        """Ids that were deleted or that a later shard holds, int64 ascending."""
        self._dim = dim
        self._checked = checked

    def with_dead(self, dead: np.ndarray) -> "Shard":
        """The same shard after more of its rows have died; what was read of its files is kept."""
        if len(dead) == len(self.dead):
            return self
        other = Shard(self.folder, self.entry, dead, self._dim, self._checked)
        read = ("ids", "_order", "vectors", "_row_file", "_metadata_file")
        other.__dict__ |= {name: self.__dict__[name] for name in read if name in self.__dict__}
        return other

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def metadata_path(self) -> Path:
        return self.folder / METADATA

    def confirm(self, name: str, *, again: bool = False) -> None:
        """Compare one of its files with its checksum, unless it has not changed since that was done.

        Args:
            again: compare it in any case.

        Raises:
            DamagedError: it is missing or another one.
            StoreError: it cannot be reached.
        """
        if self._checked is not None:
            self._checked.confirm(self.folder / name, self.entry.sha256.get(name), again=again)

    @cached_property
    def ids(self) -> np.ndarray:
        """int64 ``[rows]`` in row order, dead rows included."""
        # `to_numpy` imports pandas where it is installed, which takes a fifth of a second.
        parts = [np.from_dlpack(part) for part in self.read(["id"]).column("id").chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @cached_property
    def _order(self) -> np.ndarray | None:
        """Rows by ascending id; None if they are in that order already, as in a shard of new images."""
        ids = self.ids
        return None if bool((ids[1:] > ids[:-1]).all()) else np.argsort(ids, kind="stable")

    @cached_property
    def live_rows(self) -> np.ndarray:
        """Positions of the live rows, int64 ascending."""
        if not len(self.dead):
            return np.arange(self.entry.rows)
        return np.flatnonzero(~np.isin(self.ids, self.dead))

    @property
    def live_ids(self) -> np.ndarray:
        """Ids of the live rows, in row order."""
        return self.ids[self.live_rows] if len(self.dead) else self.ids

    @property
    def by_id(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the live rows, int64 ascending, and the row of each."""
        if self._order is None:
            return self.live_ids, self.live_rows
        rows = self._order[~np.isin(self.ids[self._order], self.dead)] if len(self.dead) else self._order
        return self.ids[rows], rows

    def find(self, ids: np.ndarray, *, live: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Which of some ids the shard holds.

        Args:
            ids: int64 ascending, unique.
            live: False counts dead rows too.

        Returns:
            int64 positions in ``ids``, ascending, and the row of each.
        """
        low, high = np.searchsorted(ids, [self.entry.first_id, self.entry.last_id + 1])
        wanted = ids[low:high]
        if live and len(self.dead) and len(wanted):
            at = np.minimum(np.searchsorted(self.dead, wanted), len(self.dead) - 1)
            alive = self.dead[at] != wanted
            kept = np.flatnonzero(alive)
            wanted = wanted[kept]
        else:
            kept = np.arange(len(wanted))
        if not len(wanted):
            return kept, kept
        order = self._order
        if order is None and self.entry.last_id - self.entry.first_id + 1 == self.entry.rows:
            return low + kept, wanted - self.entry.first_id  # no id of the range is missing
        at = np.searchsorted(self.ids, wanted, sorter=order)
        at = np.minimum(at, self.entry.rows - 1)
        rows = at if order is None else order[at]
        there = self.ids[rows] == wanted
        return low + kept[there], rows[there]

    @cached_property
    def vectors(self) -> np.ndarray:
        """Memory-mapped ``[rows, dim]``, read only.

        Raises:
            DamagedError: the file is missing, or is not the one that was committed.
        """
        self.confirm(VECTORS)
        path = self.folder / VECTORS
        try:
            vectors = map_array(path)
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error
        is_float = vectors.dtype.kind == "f" and vectors.dtype.isnative
        if vectors.shape != (self.entry.rows, self._dim) or not is_float:
            found, expected = f"{list(vectors.shape)} {vectors.dtype}", [self.entry.rows, self._dim]
            raise DamagedError(f"{path} holds {found}, but the manifest says {expected}.")
        return vectors

    def metadata(self, schema: pa.Schema) -> pa.Table:
        """Live rows, in row order; a column that the shard does not have is null."""
        return completed(self.read(schema.names).take(pa.array(self.live_rows)), schema)

    def rows(self, rows: np.ndarray) -> pa.Table:
        """Some rows with the columns that the shard has, in the order given; only parts of the file are read.

        Raises:
            DamagedError: the file is missing or damaged.
        """
        with self._row_file.reading() as file:
            return file.take(rows)

    def metadata_of(self, rows: np.ndarray) -> pa.Table:
        """As `rows`, from the file that `metadata` reads."""
        with self._metadata_file.reading() as file:
            return file.take(rows)

    def records(self, rows: np.ndarray, recent: RecentParts) -> list[dict[str, Any]]:
        """As `rows`, as dictionaries: for a page of results a third of the time of building a table of them.

        Columns that are null in all of a part are left out.

        Args:
            recent: remembers the parts that are read.

        Raises:
            DamagedError: the file is missing or damaged.
        """
        with self._row_file.reading() as file:
            parts, places = (each.tolist() for each in file.places(rows))
            columns = {part: recent.columns(file, part) for part in dict.fromkeys(parts)}
            return [
                {name: column[place].as_py() for name, column in columns[part]}
                for part, place in zip(parts, places, strict=True)
            ]

    @cached_property
    def _row_file(self) -> RowFile:
        if ROWS in self.entry.sha256:
            self.confirm(ROWS)
            return ArrowRows(self.folder / ROWS, self.entry.rows)
        return self._metadata_file

    @cached_property
    def _metadata_file(self) -> RowFile:
        self.confirm(METADATA)
        return ParquetRows(self.metadata_path)

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns that the shard has."""
        with self._metadata() as file:
            return frozenset(file.schema_arrow.names)

    @contextmanager
    def _metadata(self) -> Iterator[Any]:
        self.confirm(METADATA)
        # Pages carry checksums since schema 4; comparing them takes a tenth of the time of decoding.
        try:
            with pq.ParquetFile(self.metadata_path, page_checksum_verification=True) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.metadata_path, error) from error

    def read(self, columns: list[str]) -> pa.Table:
        """Those of some columns that the shard has, dead rows included.

        Raises:
            DamagedError: the file is missing or damaged.
        """
        path = self.metadata_path
        with self._metadata() as file:
            present = set(file.schema_arrow.names)
            table = file.read([name for name in columns if name in present])
        if table.num_rows != self.entry.rows:
            raise DamagedError(f"{path} has {table.num_rows} rows, but the manifest says {self.entry.rows}.")
        return table


def completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema; those that a table lacks are null."""
    columns = [
        table.column(each.name).cast(each.type) if each.name in table.column_names else pa.nulls(len(table), each.type)
        for each in schema
    ]
    return pa.table(columns, schema=pa.schema([pa.field(each.name, each.type) for each in schema]))
