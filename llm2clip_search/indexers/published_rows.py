"""The rows of an index as serving engines get them, and what differs between an index and an engine."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.store import Snapshot
from llm2clip_search.store.paths import located
from llm2clip_search.store.shard import Shard, completed
from llm2clip_search.vectorindex.serving.engine import RowBatch, ServingEngine
from llm2clip_search.vectorindex.serving.payload import published_schema

BLOCK_ROWS = 8_192
"""Rows that are held at a time, four row groups of a shard: 50 MB with their vectors and payloads."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of one block of rows, those that an engine lacks and those that it has with other columns."""

    rows: int
    """Of the block."""
    new: RowBatch
    vectors: np.ndarray
    """Of the new ones, as the index stores them."""
    changed: RowBatch


class PublishedRows:
    """The live rows of a snapshot in the form that engines store."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.schema = published_schema(snapshot.schema)

    def batch(self, shard: Shard, rows: np.ndarray) -> RowBatch:
        """Some rows of a shard, by their places."""
        table = completed(shard.metadata_of(rows), self._snapshot.schema)
        times = pc.divide(table.column("mtime_ns"), 1000)  # towards zero, as DuckDB does
        values = {
            **{name: table.column(name) for name in table.column_names},
            "path": located(table.column("path"), self._snapshot.stored_base),
            "mtime": times.cast(pa.timestamp("us")),
        }
        return RowBatch(pa.table([values[field.name] for field in self.schema], schema=self.schema))

    def differences(self, shard: Shard, engine: ServingEngine, *, is_empty: bool) -> Iterator[Difference]:
        """What an engine lacks of a shard, block by block.

        Args:
            is_empty: the engine has none of the rows, so that it need not be asked.
        """
        live = shard.live_rows
        for start in range(0, len(live), BLOCK_ROWS):
            places = live[start : start + BLOCK_ROWS]
            batch = self.batch(shard, places)
            known = {} if is_empty else engine.digests(batch.ids)
            there = np.array([identifier in known for identifier in batch.ids.tolist()], dtype=bool)
            held = np.array([known.get(identifier) or 0 for identifier in batch.ids.tolist()], dtype=np.int64)
            new, changed = np.flatnonzero(~there), np.flatnonzero(there & (held != batch.digests))
            vectors = np.asarray(shard.vectors[places[new]])
            yield Difference(rows=len(batch), new=batch.take(new), vectors=vectors, changed=batch.take(changed))

    def of(self, ids: np.ndarray) -> Iterator[RowBatch]:
        """Live rows by their ids, int64 ascending, shard by shard."""
        for shard in self._snapshot.shards:
            _, rows = shard.find(ids)
            if len(rows):
                yield self.batch(shard, np.sort(rows))
