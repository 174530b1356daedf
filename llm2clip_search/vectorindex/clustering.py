"""Centroids for inverted lists, by k-means in two levels.

Plain k-means compares every training vector with every centroid in every iteration, which for 40 vectors per centroid
grows with the square of the number of lists. With sqrt(lists) coarse clusters that are each split on their own, it
grows with its power of 1.5.
"""

import math
from typing import Any

import numpy as np

from llm2clip_search.base.vectors import unit
from llm2clip_search.vectorindex.faiss_library import import_faiss

ITERATIONS = 10


def spherical_centroids(vectors: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Cluster unit vectors.

    Args:
        vectors: float32 ``[n, dim]``, unit length, in random order; ``n`` is at least ``count``.

    Returns:
        float32 ``[count, dim]``, unit length.
    """
    coarse = round(math.sqrt(count))
    if coarse < 8:
        return _k_means(vectors, count, seed)
    _, nearest = _index_of(_k_means(vectors, coarse, seed)).search(vectors, 1)
    members = [np.flatnonzero(nearest[:, 0] == number) for number in range(coarse)]
    parts = _shares(np.array([len(rows) for rows in members]), count)
    split = (_k_means(vectors[rows], part, seed) for rows, part in zip(members, parts.tolist(), strict=True) if part)
    return np.concatenate(list(split))


def _shares(sizes: np.ndarray, count: int) -> np.ndarray:
    """How many of ``count`` centroids each cluster gets: in proportion to its size, and at most one per member."""
    parts: np.ndarray = np.minimum(sizes, np.maximum(sizes > 0, (sizes * count) // sizes.sum()))
    while (missing := count - int(parts.sum())) != 0:
        # Those with the most members per centroid get one more, those with the fewest give one back.
        load = np.where(parts > 0, sizes / np.maximum(parts, 1), 0.0)
        if missing > 0:
            parts[np.argsort(-np.where(parts < sizes, load, -1.0), kind="stable")[:missing]] += 1
        else:
            parts[np.argsort(np.where(parts > 1, load, np.inf), kind="stable")[:-missing]] -= 1
        parts = np.minimum(parts, sizes)
    return parts


def _k_means(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    if count == 1:
        return unit(vectors.mean(axis=0, keepdims=True))
    if count == len(vectors):
        return vectors
    k_means = import_faiss().Kmeans(
        vectors.shape[1], count, niter=ITERATIONS, spherical=True, seed=seed + 1, min_points_per_centroid=1
    )
    k_means.train(vectors)
    return unit(k_means.centroids)


def _index_of(centroids: np.ndarray) -> Any:
    index = import_faiss().IndexFlatIP(centroids.shape[1])
    index.add(centroids)
    return index
