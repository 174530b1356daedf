"""The worst queries of a run: those whose expected result ranks lowest, for text and image queries."""

from dataclasses import dataclass

import numpy as np

from llm2clip_search.base.vectors import top_k
from llm2clip_search.evaluation.metrics import NEVER, cosine_scores, ranks_of_best

RETRIEVED = 5
"""Number of top results that are kept for each query."""


@dataclass(frozen=True, kw_only=True)
class ScoredItem:
    """A gallery item and its score for a query."""

    row: int
    score: float
    """Cosine in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class MissedQuery:
    """A query whose top result is not an expected one."""

    query: int
    """Row of the query."""
    rank: int
    """Rank of the expected item, counted from 0; of the highest-ranked one if several are expected."""
    expected: ScoredItem
    retrieved: tuple[ScoredItem, ...]
    """The top results, best first."""


@dataclass(frozen=True, kw_only=True)
class MissedQueries:
    """The worst queries, and how many queries were missed in total."""

    worst: tuple[MissedQuery, ...]
    """Lowest-ranked expected item first; ties by row."""
    queries: int
    """Number of queries with an expected item."""
    missed: int
    """Number of queries among them whose top result is not an expected one."""
    gallery: int
    """Number of gallery items."""


def worst_queries(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_of: np.ndarray,
    gallery_of: np.ndarray,
    *,
    count: int,
    retrieved: int = RETRIEVED,
) -> MissedQueries:
    """Find up to ``count`` missed queries; queries without an expected item are ignored.

    Args:
        queries: float32 ``[q, dim]``, L2-normalised.
        gallery: float32 ``[g, dim]``, L2-normalised.
        query_of: int64 ``[q]``, group of each query.
        gallery_of: int64 ``[g]``, group of each gallery item; a query expects the items of its own group.
        retrieved: number of top results to keep for each query.
    """
    ranks = ranks_of_best(queries, gallery, query_of, gallery_of)
    expecting = ranks != NEVER
    missed = np.flatnonzero(expecting & (ranks > 0))
    worst = []
    for row in missed[np.argsort(-ranks[missed], kind="stable")][:count]:
        scores = cosine_scores(queries[[row]], gallery)
        (top,) = top_k(scores, retrieved)[1].tolist()
        right = np.flatnonzero(gallery_of == query_of[row])
        expected = int(right[scores[0, right].argmax()])
        worst.append(
            MissedQuery(
                query=int(row),
                rank=int(ranks[row]),
                expected=ScoredItem(row=expected, score=float(scores[0, expected])),
                retrieved=tuple(ScoredItem(row=item, score=float(scores[0, item])) for item in top),
            )
        )
    return MissedQueries(worst=tuple(worst), queries=int(expecting.sum()), missed=len(missed), gallery=len(gallery))


def worst_queries_both_ways(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, count: int, retrieved: int = RETRIEVED
) -> tuple[MissedQueries, MissedQueries]:
    """Captions that miss their image, and images that miss all their captions; see `worst_queries`.

    Args:
        images: float32 ``[n_images, dim]``, L2-normalised.
        captions: float32 ``[n_captions, dim]``, L2-normalised.
        image_of: int64 ``[n_captions]``, the row in ``images`` that each caption describes.
    """
    rows = np.arange(len(images))
    return (
        worst_queries(captions, images, image_of, rows, count=count, retrieved=retrieved),
        worst_queries(images, captions, rows, image_of, count=count, retrieved=retrieved),
    )
