"""Recall of an approximate index, measured against exact search over the same vectors."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from llm2clip_search.base.vectors import unit
from llm2clip_search.vectorindex.exact import exact_search
from llm2clip_search.vectorindex.index import VectorIndex, Vectors


class StoredVectors(Vectors, Protocol):
    """Stored vectors that can be looked up by id; a `store.Snapshot` is one."""

    @property
    def live_ids(self) -> np.ndarray:
        """int64 ascending."""

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """float32 ``[len(ids), dim]``."""


def measure_recall(stored: StoredVectors, index: VectorIndex, *, seed: int, queries: int = 100, k: int = 10) -> float:
    """Share of the exact ``k`` nearest neighbours that the index finds, for `midpoint_queries`."""
    probe = midpoint_queries(stored, seed=seed, count=queries)
    k = min(k, len(stored.live_ids))
    _, expected = exact_search(stored, probe, k)
    _, found = index.search(probe, k, allowed=stored.live_ids)
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(expected, found, strict=True))
    return hits / (queries * k)


def midpoint_queries(stored: StoredVectors, *, seed: int, count: int) -> np.ndarray:
    """Midpoints of random pairs of stored vectors: near the data, but not in it.

    Returns:
        float32 ``[count, dim]``, unit length.
    """
    pairs = np.random.default_rng(seed).choice(stored.live_ids, size=(count, 2))
    ids = np.unique(pairs)
    vectors = stored.vectors(ids.tolist())
    first, second = (np.searchsorted(ids, pairs[:, side]) for side in (0, 1))
    return unit(vectors[first] + vectors[second])
