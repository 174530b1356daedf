"""The live rows of several shards as one: whatever their number, memory holds a block of them."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from llm2clip_search.store.schema import METADATA_SCHEMA
from llm2clip_search.store.shard import METADATA, VECTORS, Shard, completed
from llm2clip_search.store.shard_files import ROW_GROUP

MERGED_ROWS = 4 * ROW_GROUP
"""Rows that are held at a time: as many as an index run holds between two commits."""


class MergedRows:
    """The live rows of some shards in the order of their ids; 32 bytes of each are held."""

    def __init__(self, shards: Sequence[Shard], schema: pa.Schema) -> None:
        """Rows with the columns of a schema; further columns that no shard has are left out.

        Raises:
            DamagedError: a file of a shard is damaged; so do `tables` and `blocks`.
        """
        for shard in shards:  # what has decayed would get a checksum of its own
            for file in (METADATA, VECTORS):
                shard.confirm(file, again=True)
        names = frozenset(METADATA_SCHEMA.names).union(*(shard.columns for shard in shards))
        self._schema = pa.schema([field for field in schema if field.name in names])
        self._shards = shards
        order = np.argsort(np.concatenate([shard.live_ids for shard in shards]), kind="stable")
        self._rows = np.concatenate([shard.live_rows for shard in shards])[order]
        self._sources = np.repeat(np.arange(len(shards)), [len(shard.live_rows) for shard in shards])[order]

    def __len__(self) -> int:
        return len(self._rows)

    def tables(self) -> Iterator[pa.Table]:
        """Their metadata, `MERGED_ROWS` at a time."""
        for parts in self._parts():
            read = [completed(shard.metadata_of(rows), self._schema) for shard, rows, _ in parts]
            places = np.argsort(np.concatenate([places for _, _, places in parts]))
            yield pa.concat_tables(read).take(pa.array(places))

    def blocks(self) -> Iterator[np.ndarray]:
        """Their vectors ``[m, dim]``, `MERGED_ROWS` at a time."""
        for parts in self._parts():
            read = [shard.vectors[rows] for shard, rows, _ in parts]
            yield np.concatenate(read)[np.argsort(np.concatenate([places for _, _, places in parts]))]

    def _parts(self) -> Iterator[list[tuple[Shard, np.ndarray, np.ndarray]]]:
        """Of each block, the shards that have rows of it, with their rows and the places of these in the block."""
        for start in range(0, len(self), MERGED_ROWS):
            block = slice(start, start + MERGED_ROWS)
            sources, rows = self._sources[block], self._rows[block]
            places = {number: np.flatnonzero(sources == number) for number in np.unique(sources)}
            yield [(self._shards[number], rows[found], found) for number, found in places.items()]
