"""Tombstones: rows of a shard that were deleted, or that a later shard holds under the same id."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.base.lazy import LazyModule
from llm2clip_search.errors import DamagedError
from llm2clip_search.store.faults import unreadable

pq = LazyModule("pyarrow.parquet")

TOMBSTONE_SCHEMA = pa.schema(
    [pa.field("shard", pa.string(), nullable=False), pa.field("id", pa.int64(), nullable=False)]
)

NOTHING = np.empty(0, dtype=np.int64)


class Tombstones:
    """Dead ids of each shard, int64 ascending; a value that is never changed."""

    def __init__(self, dead: Mapping[str, np.ndarray] | None = None) -> None:
        self._dead = dict(dead or {})

    def __len__(self) -> int:
        return sum(map(len, self._dead.values()))

    def of(self, shard: str) -> np.ndarray:
        """Dead ids of a shard."""
        return self._dead.get(shard, NOTHING)

    @property
    def shards(self) -> frozenset[str]:
        """Names of the shards that have dead rows."""
        return frozenset(self._dead)

    def with_dead(self, dying: Mapping[str, np.ndarray]) -> "Tombstones":
        """These and more: live ids of some shards, which die."""
        merged = {name: np.union1d(self.of(name), ids) for name, ids in dying.items() if len(ids)}
        return Tombstones({**self._dead, **merged})

    def without(self, shards: frozenset[str]) -> "Tombstones":
        """Those of other shards."""
        return Tombstones({name: ids for name, ids in self._dead.items() if name not in shards})

    @classmethod
    def read(cls, path: Path, sha256: str | None) -> "Tombstones":
        """Read a tombstone file and compare it with its checksum, if there is one: it is small, and a wrong one would
        bring deleted images back or hide others.

        Raises:
            DamagedError: it is missing or damaged.
        """
        try:
            data = path.read_bytes()
            if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
                raise DamagedError(f"{path} differs from what was committed: its checksum is not the manifest's.")
            table = pq.read_table(pa.BufferReader(data), schema=TOMBSTONE_SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, error) from error
        encoded = table.column("shard").combine_chunks().dictionary_encode()
        codes, ids = encoded.indices.to_numpy(), table.column("id").to_numpy()
        order = np.lexsort((ids, codes))
        names = encoded.dictionary.to_pylist()
        starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
        return cls({name: ids[order[starts[code] : starts[code + 1]]] for code, name in enumerate(names)})

    def to_table(self) -> pa.Table:
        """Columns of `TOMBSTONE_SCHEMA`."""
        if not self._dead:
            return TOMBSTONE_SCHEMA.empty_table()
        names = np.repeat(list(self._dead), [len(ids) for ids in self._dead.values()])
        return pa.table([pa.array(names, pa.string()), np.concatenate([*self._dead.values()])], schema=TOMBSTONE_SCHEMA)
