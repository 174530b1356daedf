"""Exact search over stored vectors, and the final ranking of candidates that another index found."""

from functools import partial
from pathlib import Path

import numpy as np

from llm2clip_search.base.lazy import Lazy
from llm2clip_search.base.vectors import merge_top, top_k
from llm2clip_search.vectorindex.float16_scan import ROUNDING, Float16Scan, is_available, scan_gathered
from llm2clip_search.vectorindex.index import Capabilities, MappedVectors, ShardedVectors, Vectors

_QUERIES_PER_PRODUCT = 256
"""Bounds the memory of one matrix product: this many rows of scores per block."""
_QUERIES_RANKED = 64
"""Candidates of this many queries are read together: they share files, and perhaps rows."""

FEW_QUERIES = 8
"""Up to this many queries FAISS's scan of float16 vectors is faster; more share one conversion to float32."""
MANY_ROWS = 20_000
"""From this many rows on, importing FAISS costs less than the conversion that it saves. A second
search suggests many more, so it is imported for fewer then."""
GATHER_SHARE = 1 / 4
"""Of a shard with a smaller share of allowed rows, these are copied out; of others, a scan skips those that are not."""
SLACK = 32
"""Candidates that a scan gives beyond ``k``: if even the last of them may belong to the best, all rows are compared."""


class ExactIndex:
    """A `VectorIndex` that compares queries with every stored vector: a view that adds nothing to the store.

    Few queries are answered by FAISS's scan of the float16 vectors in their mapped files; its candidates are ranked
    again. The ranking is that of `exact_search`, but for scores that differ by float32 rounding alone.
    """

    capabilities = Capabilities(exact=True, filters=True, writable=False)

    def __init__(self, vectors: ShardedVectors, rows: int) -> None:
        self._vectors, self._rows = vectors, rows
        self._is_first = True
        self._scans = [Lazy(partial(_scan_of, shard)) for shard in vectors.shards]

    def __len__(self) -> int:
        return self._rows

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        raise TypeError("exact search reads the store; vectors are added by committing a shard")

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, effort: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `VectorIndex.search`, but with at most as many columns as there are rows; equal scores by lower id."""
        compared = self._rows if allowed is None else len(allowed)
        few = max(MANY_ROWS if self._is_first else 0, 4 * k)
        self._is_first = False
        if not 0 < len(queries) <= FEW_QUERIES or compared < few or not self._can_scan():
            return exact_search(self._vectors, queries, k, ids=allowed)
        scores, ids = self._scan(queries, k + SLACK, allowed)
        # A candidate that was left out has at most the last score; it may belong to the best if that is so near.
        if (scores[:, -1] >= scores[:, k - 1] - 2 * ROUNDING).any():
            return exact_search(self._vectors, queries, k, ids=allowed)
        return rank_again(self._vectors, queries, ids, k)

    def save(self, path: Path) -> None:
        raise TypeError("exact search reads the store; there is nothing to save")

    def _can_scan(self) -> bool:
        return is_available() and all(shard.vectors.dtype == np.float16 for shard in self._vectors.shards)

    def _scan(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best candidates over all shards, float32 and int64 ``[n, k]``."""
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for shard, scan in zip(self._vectors.shards, self._scans, strict=True):
            rows = shard.find(allowed)[1] if allowed is not None else shard.live_rows if len(shard.dead) else None
            if rows is not None and not len(rows):
                continue
            if rows is not None and len(rows) < GATHER_SHARE * len(shard.vectors):
                results = scan_gathered(shard.vectors, rows, queries, k)
            else:
                results = iter([scan().search(queries, k, rows)])
            for top, found in results:
                nothing = found < 0
                more = np.where(nothing, -np.inf, top), np.where(nothing, -1, shard.ids[found])
                scores, ids = merge_top(scores, ids, *more)
        return scores, ids


def _scan_of(shard: MappedVectors) -> Float16Scan:
    return Float16Scan(shard.vectors)


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
    """The ``k`` best of each query's candidates by their stored vectors, whatever index found them.

    Scores are summed in float64, row by row. A float32 matrix product rounds differently for other numbers of rows, so
    that copies of one image would have different scores in different shards.

    Args:
        queries: float32 ``[n, dim]``, unit length.
        candidates: int64 ``[n, m]`` as an index gives them, -1 where it found nothing.

    Returns:
        float32 and int64, each ``[n, k]``, best first, equal scores by lower id; places without a result have score -2
        and id -1.
    """
    scores = np.full((len(queries), k), -2.0, dtype=np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for start in range(0, len(queries), _QUERIES_RANKED):
        part = slice(start, start + _QUERIES_RANKED)
        read = list(vectors.blocks(candidates[part][candidates[part] >= 0]))
        if not read:
            continue
        held, stored = np.concatenate([block_ids for block_ids, _ in read]), np.concatenate([rows for _, rows in read])
        by_id = np.argsort(held, kind="stable")
        for row in range(*part.indices(len(queries))):
            found = np.unique(candidates[row])
            at = np.minimum(np.searchsorted(held, found, sorter=by_id), len(held) - 1)
            rows = by_id[at][held[by_id[at]] == found]
            products = (stored[rows] * queries[row].astype(np.float64)).sum(axis=1).astype(np.float32)
            order = np.lexsort((held[rows], -products))[:k]
            scores[row, : len(order)], ids[row, : len(order)] = products[order], held[rows[order]]
    return scores, ids
