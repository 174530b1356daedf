"""What a vector index is: the seam behind which exact search, FAISS and remote engines look alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a caller has to know of an index before it asks."""

    exact: bool
    """Scores are those of the stored vectors and no neighbour is missed; candidates of another index are ranked
    again by their stored vectors (`exact.rank_again`)."""
    filters: bool
    """``allowed`` is honoured; FAISS's classic GPU indices ignore selectors."""
    writable: bool
    """`VectorIndex.add` and `VectorIndex.save` work; a GPU copy or a view of stored vectors has neither."""


class VectorIndex(Protocol):
    """Vectors with int64 ids, searched by inner product."""

    @property
    def capabilities(self) -> Capabilities: ...

    def __len__(self) -> int:
        """Vectors that it holds, dead ones included."""

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors.

        Args:
            ids: int64 ``[n]``, none of them in the index yet.
            vectors: float32 ``[n, dim]``, unit length.

        Raises:
            TypeError: the index is not writable.
        """

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, effort: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the ``k`` nearest vectors of each query.

        Args:
            queries: float32 ``[n, dim]``, unit length.
            k: results per query.
            allowed: int64 ids, ascending, that may be found; None allows all. Passing the same array again is
                cheaper than passing a copy; it must not be changed in between.
            effort: how hard an approximate index searches: ``nprobe`` of inverted lists, ``efSearch`` of graphs. None
                leaves it to the kind; exact search ignores it.

        Returns:
            float32 scores and int64 ids, each ``[n, k]``, best first; a place without a result has id -1.

        Raises:
            TypeError: ``allowed`` is given, but the index cannot filter.
        """

    def save(self, path: Path) -> None:
        """Write the index to a file.

        Raises:
            TypeError: the index is not writable.
        """


class MappedVectors(Protocol):
    """Some of the stored vectors as they lie in one file; a `store.Shard` is one."""

    @property
    def ids(self) -> np.ndarray:
        """int64 ``[rows]``, dead rows included."""

    @property
    def vectors(self) -> np.ndarray:
        """float16 or float32 ``[rows, dim]``, C-contiguous."""

    @property
    def dead(self) -> np.ndarray:
        """Ids that do not count."""

    @property
    def live_rows(self) -> np.ndarray:
        """int64 ascending."""

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of live rows in ``ids``, int64 ascending, and the row of each."""


class Vectors(Protocol):
    """Stored vectors that are read block by block; a `store.Snapshot` is one."""

    def blocks(self, ids: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Live rows, or those of them in ``ids``: int64 ``[m]`` ascending and float32 ``[m, dim]`` per block."""


class ShardedVectors(Vectors, Protocol):
    """Stored vectors that can also be read where they lie; a `store.Snapshot` is one."""

    @property
    def shards(self) -> Sequence[MappedVectors]:
        """All of them, file by file."""
