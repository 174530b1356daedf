"""Exact search over stored vectors, and the final ranking of candidates that another index found."""

from pathlib import Path

import numpy as np

from llm2clip_search.base.vectors import top_k
from llm2clip_search.vectorindex.index import Capabilities, Vectors

_QUERIES_PER_PRODUCT = 256
"""Bounds the memory of one matrix product: this many rows of scores per block."""


class ExactIndex:
    """A `VectorIndex` that compares queries with every stored vector: a view that adds nothing to the store."""

    capabilities = Capabilities(exact=True, filters=True, writable=False)

    def __init__(self, vectors: Vectors, rows: int) -> None:
        self._vectors, self._rows = vectors, rows

    def __len__(self) -> int:
        return self._rows

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        raise TypeError("exact search reads the store; vectors are added by committing a shard")

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, effort: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `VectorIndex.search`; returns ``min(k, rows)`` columns, and equal scores by lower id."""
        return exact_search(self._vectors, queries, k, ids=allowed)

    def save(self, path: Path) -> None:
        raise TypeError("exact search reads the store; there is nothing to save")


def exact_search(
    vectors: Vectors, queries: np.ndarray, k: int, *, ids: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and id of the ``k`` best live rows, or of those in ``ids``, block by block.

    Args:
        queries: float32 ``[n, dim]``, unit length.

    Returns:
        float32 and int64, each ``[n, min(k, rows)]``, best first; equal scores by lower id.
    """
    if len(queries) == 0:
        return np.empty((0, k), dtype=np.float32), np.empty((0, k), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    found = np.empty((len(queries), 0), dtype=np.int64)
    for block_ids, block in vectors.blocks(ids):
        parts = [
            top_k(queries[start : start + _QUERIES_PER_PRODUCT] @ block.T, k)
            for start in range(0, len(queries), _QUERIES_PER_PRODUCT)
        ]
        scores = np.concatenate([scores, np.concatenate([top for top, _ in parts])], axis=1)
        columns = np.concatenate([column for _, column in parts])
        found = np.concatenate([found, block_ids[columns]], axis=1)
        order = np.lexsort((found, -scores), axis=1)[:, :k]
        scores, found = np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
    return scores, found


def rank_again(vectors: Vectors, queries: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` best of each query's candidates by their stored vectors: the scores of exact search.

    Args:
        queries: float32 ``[n, dim]``, unit length.
        candidates: int64 ``[n, m]`` as an approximate index gives them, -1 where it found nothing.

    Returns:
        float32 and int64, each ``[n, k]``, best first; places without a result have score -2 and id -1.
    """
    scores = np.full((len(queries), k), -2.0, dtype=np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for row, found in enumerate(candidates):
        top, best = exact_search(vectors, queries[row : row + 1], k, ids=found[found >= 0])
        scores[row, : top.shape[1]], ids[row, : best.shape[1]] = top[0], best[0]
    return scores, ids
