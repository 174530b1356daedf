"""Rankings over the rows of one or several indices, and how several of them become one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RANK_CONSTANT = 60
"""Constant of reciprocal rank fusion, from Cormack, Clarke and Buettcher (2009)."""
_ID_BITS = 48
_IDS = (1 << _ID_BITS) - 1


def keys_of(part: int, ids: np.ndarray) -> np.ndarray:
    """One int64 per row that names it among all indices, and sorts by index, then id.

    Args:
        part: number of the index, from 0.
        ids: int64; an index counts its ids from 0, so that 48 bits hold them.
    """
    keys: np.ndarray = (np.int64(part) << _ID_BITS) | np.asarray(ids, dtype=np.int64)
    return keys


def parts_and_ids(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index and the id of each row, the inverse of `keys_of`: int64 ``[n]`` each."""
    return keys >> _ID_BITS, keys & _IDS


def distinct(numbers: np.ndarray) -> list[int]:
    """Distinct values, ascending; ``np.unique`` would import ``numpy.ma``, which takes longer than the search."""
    return sorted(set(numbers.tolist()))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Rows, best first."""

    keys: np.ndarray
    """int64 ``[n]``, see `keys_of`."""
    scores: np.ndarray
    """Cosines, float32 ``[n]``."""

    def __len__(self) -> int:
        return len(self.keys)

    def above(self, threshold: float | None) -> "Ranking":
        """The rows whose cosine is at least the threshold; all without one."""
        if threshold is None:
            return self
        kept = self.scores >= threshold
        return Ranking(keys=self.keys[kept], scores=self.scores[kept])


def ranked(keys: np.ndarray, scores: np.ndarray, k: int | None = None) -> Ranking:
    """The ``k`` best rows, by default all: equal scores by the order of the indices, then by lower id."""
    order = np.lexsort((keys, -scores))[:k]
    return Ranking(keys=keys[order], scores=scores[order])


def continued(ranking: Ranking, other: Ranking) -> Ranking:
    """A ranking, then the rows of another that it does not hold, in their order."""
    rest = ~np.isin(other.keys, ranking.keys)
    return Ranking(
        keys=np.concatenate([ranking.keys, other.keys[rest]]),
        scores=np.concatenate([ranking.scores, other.scores[rest]]),
    )


def reciprocal_ranks(rankings: Sequence[Ranking], keys: np.ndarray) -> np.ndarray:
    """Fused score of each row: the sum of ``1 / (60 + rank)`` over the rankings that hold it.

    Source: Cormack, Clarke and Buettcher, Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods, SIGIR 2009.

    Args:
        keys: int64 ``[n]``, ascending, that hold every row of the rankings.

    Returns:
        float64 ``[n]``.
    """
    fused = np.zeros(len(keys))
    for ranking in rankings:
        fused[np.searchsorted(keys, ranking.keys)] += 1.0 / (RANK_CONSTANT + 1 + np.arange(len(ranking)))
    return fused
