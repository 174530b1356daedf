"""The worst queries of a run: those whose expected answer stands farthest down, both ways."""

from dataclasses import dataclass

import numpy as np

from llm2clip_search.base.vectors import top_k
from llm2clip_search.evaluation.metrics import NEVER, cosine_scores, ranks_of_best

RETRIEVED = 5
"""Items of the gallery that are shown of each failure, the best placed ones."""


@dataclass(frozen=True, kw_only=True)
class ScoredItem:
    """An item of the gallery."""

    row: int
    score: float
    """Cosine in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class MissedQuery:
    """A query whose nearest item is a wrong one."""

    query: int
    """Its row among the queries."""
    rank: int
    """Of the expected item, from 0: so many others stand before it. The best placed one, where several are right."""
    expected: ScoredItem
    found: tuple[ScoredItem, ...]
    """What stands first in its place, best first."""


@dataclass(frozen=True, kw_only=True)
class MissedQueries:
    """The worst queries, and what they were drawn from."""

    worst: tuple[MissedQuery, ...]
    """Farthest down first; of equals the lower row."""
    asked: int
    """Queries that expect something."""
    missed: int
    """Queries among them whose nearest item is a wrong one."""
    gallery: int
    """Items that were ranked."""


def worst_queries(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_of: np.ndarray,
    gallery_of: np.ndarray,
    *,
    count: int,
    found: int = RETRIEVED,
) -> MissedQueries:
    """At most ``count`` queries whose expected item is not the nearest; those that expect nothing are left out.

    Args:
        queries: float32 ``[q, dim]``, unit.
        gallery: float32 ``[g, dim]``, unit.
        query_of: int64 ``[q]``; a query expects what has its number in ``gallery_of``, int64 ``[g]``.
        found: items that are told of each.
    """
    ranks = ranks_of_best(queries, gallery, query_of, gallery_of)
    asked = ranks != NEVER
    missed = np.flatnonzero(asked & (ranks > 0))
    rows = missed[np.argsort(-ranks[missed], kind="stable")][:count]
    worst = []
    for row in rows:
        scores = cosine_scores(queries[[row]], gallery)
        (retrieved,) = top_k(scores, found)[1].tolist()
        right = np.flatnonzero(gallery_of == query_of[row])
        expected = right[scores[0, right].argmax()]
        worst.append(
            MissedQuery(
                query=int(row),
                rank=int(ranks[row]),
                expected=ScoredItem(row=int(expected), score=float(scores[0, expected])),
                found=tuple(ScoredItem(row=item, score=float(scores[0, item])) for item in retrieved),
            )
        )
    return MissedQueries(worst=tuple(worst), asked=int(asked.sum()), missed=len(missed), gallery=len(gallery))


def worst_queries_both_ways(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, count: int, found: int = RETRIEVED
) -> tuple[MissedQueries, MissedQueries]:
    """Captions that miss their image, then images that miss all their captions; see `worst_queries`.

    Args:
        images: float32 ``[n_images, dim]``, unit.
        captions: float32 ``[n_captions, dim]``, unit.
        image_of: int64 ``[n_captions]``, the row in ``images`` that each caption describes.
    """
    rows = np.arange(len(images))
    return (
        worst_queries(captions, images, image_of, rows, count=count, found=found),
        worst_queries(images, captions, rows, image_of, count=count, found=found),
    )
