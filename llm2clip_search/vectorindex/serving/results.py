"""Answers of engines as arrays."""

from collections.abc import Iterable, Sequence

import numpy as np

Answer = Sequence[tuple[int, float]]
"""Ids and scores of one query, best first."""


def as_arrays(answers: Sequence[Answer], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 scores and int64 ids ``[n, k]``; -inf and -1 where nothing was found."""
    scores = np.full((len(answers), k), -np.inf, dtype=np.float32)
    ids = np.full((len(answers), k), -1, dtype=np.int64)
    for row, answer in enumerate(answers):
        for place, (identifier, score) in enumerate(answer[:k]):
            ids[row, place], scores[row, place] = identifier, score
    return scores, ids


def by_id(found: Iterable[tuple[int, Sequence[float]]], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids, int64 ascending, and their vectors, float32 ``[n, dim]``."""
    pairs = sorted(found, key=lambda pair: pair[0])
    vectors = np.array([vector for _, vector in pairs], dtype=np.float32).reshape(len(pairs), dim)
    return np.array([identifier for identifier, _ in pairs], dtype=np.int64), vectors
