"""Recall@k as defined by CLIP_benchmark, computed in chunks; ties go to the lower index.

Let ``S[t, i]`` be the score of caption t and image i, and ``g[t]`` the image that caption t describes.

* ``image_retrieval_recall@k`` (text query, t2i): share of captions t whose image ``g[t]`` is among the k best of row t.
* ``text_retrieval_recall@k`` (image query, i2t): share of images i with at least one caption among the k best of
  column i; an image without captions counts as a miss.

Source: clip_benchmark/metrics/zeroshot_retrieval.py, version 1.6.2. Values are ``float32(hits) / float32(n)``, which
is what its mean over float32 hits returns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm2clip_search.base.vectors import top_k

KS = (1, 5, 10)
"""The values of k for which papers report recall@k."""
NEVER = np.iinfo(np.int64).max
"""Rank of an item that is not in the gallery; larger than any k."""


def ranks_of_best(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_of: np.ndarray,
    gallery_of: np.ndarray,
    *,
    chunk: int = 1024,
) -> np.ndarray:
    """Rank of each query's highest-ranked relevant gallery item, counted from 0.

    Query and gallery item are relevant to each other if they have the same group number. Equal scores are ranked by
    gallery index, NaN after all other scores.

    Args:
        queries: float32 ``[q, dim]``.
        gallery: float32 ``[g, dim]``.
        query_of: int64 ``[q]``, group of each query.
        gallery_of: int64 ``[g]``, group of each gallery item.
        chunk: queries per matrix product; bounds memory at ``chunk * g`` scores.

    Returns:
        int64 ``[q]``; `NEVER` for queries without a relevant item.
    """
    members = _Members(gallery_of)
    out = np.full(len(queries), NEVER)
    for start in range(0, len(queries), chunk):
        scores = cosine_scores(queries[start : start + chunk], gallery)
        with_relevant, rows, columns = members.of(query_of[start : start + chunk])
        if not len(with_relevant):
            continue
        found = scores[rows, columns]
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        top = np.maximum.reduceat(found, first)
        # Members are in gallery order, so the first of several equal scores in a row ranks highest.
        best = np.flatnonzero(found == np.repeat(top, np.diff(first, append=len(rows))))
        best_column = columns[best[np.flatnonzero(np.diff(rows[best], prepend=-1))]]
        for row, threshold, column in zip(with_relevant.tolist(), top, best_column.tolist(), strict=True):
            line = scores[row]
            # One row at a time: it stays in the cache, and no temporary array is as large as all scores.
            equal_before = np.count_nonzero(line[:column] == threshold)
            out[start + row] = np.count_nonzero(line > threshold) + equal_before
    return out


def cosine_scores(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Dot products of unit vectors, float32 ``[q, g]``; NaN becomes -inf.

    A model whose training diverged gives NaN, and no comparison with NaN is true: its queries would rank first.
    """
    scores: np.ndarray = queries @ gallery.T
    np.fmax(scores, -np.inf, out=scores)
    return scores


class _Members:
    """Gallery rows by group, found without comparing every query with every row."""

    def __init__(self, gallery_of: np.ndarray) -> None:
        self._order = np.argsort(gallery_of, kind="stable")
        self._groups = gallery_of[self._order]

    def of(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of queries and gallery rows in the same group.

        Returns:
            int64 arrays: queries with at least one pair; the query of each pair, ascending; the gallery row of each
            pair, ascending within its query.
        """
        low = np.searchsorted(self._groups, groups, side="left")
        count = np.searchsorted(self._groups, groups, side="right") - low
        rows = np.repeat(np.arange(len(groups)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        return np.flatnonzero(count), rows, self._order[np.repeat(low, count) + within]


def nearest_rows(queries: np.ndarray, gallery: np.ndarray, k: int, *, chunk: int = 1024) -> np.ndarray:
    """Gallery rows of each query's ``k`` highest scores, best first; equal scores by row.

    Arguments as for `ranks_of_best`.

    Returns:
        int64 ``[q, min(k, g)]``.
    """
    out = np.empty((len(queries), min(k, len(gallery))), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        out[start : start + chunk] = top_k(cosine_scores(queries[start : start + chunk], gallery), k)[1]
    return out


@dataclass(frozen=True, kw_only=True)
class RetrievalRanks:
    """Rank of every query's highest-ranked relevant item, counted from 0; `NEVER` if it has no relevant item."""

    image_retrieval: np.ndarray
    """int64 ``[n_captions]``: captions are queries, images are ranked."""
    text_retrieval: np.ndarray
    """int64 ``[n_images]``: images are queries, captions are ranked."""

    def recalls(self, ks: Sequence[int] = KS) -> dict[str, float]:
        """``image_retrieval_recall@k`` and ``text_retrieval_recall@k`` in [0, 1], under CLIP_benchmark's keys."""
        return {
            f"{name}_recall@{k}": float(np.float32((rank < k).sum()) / np.float32(len(rank)))
            for name, rank in (("image_retrieval", self.image_retrieval), ("text_retrieval", self.text_retrieval))
            for k in ks
        }


def retrieval_ranks(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, chunk: int = 1024
) -> RetrievalRanks:
    """Ranks for image retrieval and text retrieval.

    Args:
        images: float32 ``[n_images, dim]``, L2-normalised.
        captions: float32 ``[n_captions, dim]``, L2-normalised.
        image_of: int64 ``[n_captions]``, the row in ``images`` that each caption describes.

    Raises:
        ValueError: the shapes do not match, or ``image_of`` has rows that ``images`` lacks.
    """
    if len(captions) != len(image_of):
        raise ValueError(f"there are {len(captions)} captions, but image_of has {len(image_of)} entries")
    if len(image_of) and not 0 <= image_of.min() <= image_of.max() < len(images):
        raise ValueError(
            f"captions are mapped to images {image_of.min()} to {image_of.max()}, but there are {len(images)} images"
        )
    rows = np.arange(len(images))
    return RetrievalRanks(
        image_retrieval=ranks_of_best(captions, images, image_of, rows, chunk=chunk),
        text_retrieval=ranks_of_best(images, captions, rows, image_of, chunk=chunk),
    )


def retrieval_recalls(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, ks: Sequence[int] = KS, chunk: int = 1024
) -> dict[str, float]:
    """Recalls for image retrieval and text retrieval.

    Arguments and errors as for `retrieval_ranks`, keys as for `RetrievalRanks.recalls`.
    """
    return retrieval_ranks(images, captions, image_of, chunk=chunk).recalls(ks)
