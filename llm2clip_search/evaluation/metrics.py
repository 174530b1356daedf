"""Recall@k as CLIP_benchmark defines it, in chunks, ties to the lower index.

With ``S[t, i]`` the score of caption t and image i, and ``g[t]`` the image of caption t:

* ``image_retrieval_recall@k`` (text query, t2i): share of captions whose image is among the k best
  of row t.
* ``text_retrieval_recall@k`` (image query, i2t): share of images of which any caption is among the
  k best of column i; an image without captions is a miss and counts.

Source: clip_benchmark/metrics/zeroshot_retrieval.py, version 1.6.2. Values are
``float32(hits) / float32(n)``, as its mean over float32 hits gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm2clip_search.base.vectors import top_k

KS = (1, 5, 10)
"""The k of recall@k that papers print."""
NEVER = np.iinfo(np.int64).max
"""The rank of what is not in the gallery: no k reaches it."""


def ranks_of_best(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_of: np.ndarray,
    gallery_of: np.ndarray,
    *,
    chunk: int = 1024,
) -> np.ndarray:
    """Rank, from 0, of each query's best-placed relevant gallery item.

    A pair is relevant when the two share a group: ``query_of`` int64 ``[q]``, ``gallery_of`` int64 ``[g]``.
    Equal scores rank by lower gallery index, NaN behind all others. Queries with nothing relevant get `NEVER`.

    Args:
        queries: float32 ``[q, dim]``.
        gallery: float32 ``[g, dim]``.
        chunk: queries a matrix product; bounds memory at ``chunk * g`` scores.
    """
    members = _Members(gallery_of)
    out = np.full(len(queries), NEVER)
    for start in range(0, len(queries), chunk):
        scores = cosine_scores(queries[start : start + chunk], gallery)
        asking, rows, columns = members.of(query_of[start : start + chunk])
        if not len(asking):
            continue
        found = scores[rows, columns]
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        top = np.maximum.reduceat(found, first)
        # Members are in gallery order: the first of a row's equals is the best placed one.
        best = np.flatnonzero(found == np.repeat(top, np.diff(first, append=len(rows))))
        place = columns[best[np.flatnonzero(np.diff(rows[best], prepend=-1))]]
        for row, threshold, column in zip(asking.tolist(), top, place.tolist(), strict=True):
            line = scores[row]
            # Row by row: a comparison of one line stays in the cache, and none is as large as the scores.
            equal_before = np.count_nonzero(line[:column] == threshold)
            out[start + row] = np.count_nonzero(line > threshold) + equal_before
    return out


def cosine_scores(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """``[q, g]``. What is not a number, as of a model whose training diverged, is last and not first."""
    scores: np.ndarray = queries @ gallery.T
    np.fmax(scores, -np.inf, out=scores)
    return scores


class _Members:
    """Which gallery rows are of a group, without comparing every query with every row."""

    def __init__(self, gallery_of: np.ndarray) -> None:
        self._order = np.argsort(gallery_of, kind="stable")
        self._groups = gallery_of[self._order]

    def of(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 each: queries with a member, and of every pair the query and the gallery row, both ascending."""
        low = np.searchsorted(self._groups, groups, side="left")
        count = np.searchsorted(self._groups, groups, side="right") - low
        rows = np.repeat(np.arange(len(groups)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        return np.flatnonzero(count), rows, self._order[np.repeat(low, count) + within]


def nearest_rows(queries: np.ndarray, gallery: np.ndarray, k: int, *, chunk: int = 1024) -> np.ndarray:
    """Gallery rows of each query's k best scores, best first, equal scores by lower row: int64 ``[q, min(k, g)]``.

    Arguments as of `ranks_of_best`.
    """
    out = np.empty((len(queries), min(k, len(gallery))), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        out[start : start + chunk] = top_k(cosine_scores(queries[start : start + chunk], gallery), k)[1]
    return out


@dataclass(frozen=True, kw_only=True)
class RetrievalRanks:
    """Of every query, the rank from 0 of its best-placed relevant item; `NEVER` where nothing is relevant."""

    image_retrieval: np.ndarray
    """int64 ``[n_captions]``: captions ask, images are ranked."""
    text_retrieval: np.ndarray
    """int64 ``[n_images]``: images ask, captions are ranked."""

    def recalls(self, ks: Sequence[int] = KS) -> dict[str, float]:
        """``image_retrieval_recall@k`` and ``text_retrieval_recall@k``, keys as CLIP_benchmark writes them."""
        return {
            f"{name}_recall@{k}": float(np.float32((rank < k).sum()) / np.float32(len(rank)))
            for name, rank in (("image_retrieval", self.image_retrieval), ("text_retrieval", self.text_retrieval))
            for k in ks
        }


def retrieval_ranks(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, chunk: int = 1024
) -> RetrievalRanks:
    """Ranks both ways.

    Args:
        images: float32 ``[n_images, dim]``, L2-normalised.
        captions: float32 ``[n_captions, dim]``, L2-normalised.
        image_of: int64 ``[n_captions]``, the row in ``images`` that each caption describes.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if len(captions) != len(image_of) or (len(image_of) and not 0 <= image_of.min() <= image_of.max() < len(images)):
        raise ValueError(f"{len(captions)} captions, {len(image_of)} of them mapped to {len(images)} images")
    rows = np.arange(len(images))
    return RetrievalRanks(
        image_retrieval=ranks_of_best(captions, images, image_of, rows, chunk=chunk),
        text_retrieval=ranks_of_best(images, captions, rows, image_of, chunk=chunk),
    )


def retrieval_recalls(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, ks: Sequence[int] = KS, chunk: int = 1024
) -> dict[str, float]:
    """Recalls both ways; arguments and errors as of `retrieval_ranks`, keys as of `RetrievalRanks.recalls`."""
    return retrieval_ranks(images, captions, image_of, chunk=chunk).recalls(ks)
