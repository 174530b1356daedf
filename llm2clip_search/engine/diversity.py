"""Results that repeat others: near-duplicates grouped under the best of them, and an order that favours variety."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from llm2clip_search.engine.ranking import Ranking

TRADE_OFF = 0.5
"""Weight of relevance against novelty: lambda of maximal marginal relevance."""
ROUNDING = 1e-6
"""Cosines of two stored vectors are this exact in float32; a copy of an image has a cosine of 1 with it."""
_BLOCK = 1024
_LEADERS_PER_PRODUCT = 8192


class Group(NamedTuple):
    """A result, and the rows that are near-duplicates of it; rankings hold 100,000 of them."""

    key: int
    score: float
    duplicates: tuple[int, ...] = ()
    """Keys of further rows, best first."""


def ungrouped(ranking: Ranking) -> list[Group]:
    """Each row as a group of its own."""
    return [
        Group(key=key, score=score) for key, score in zip(ranking.keys.tolist(), ranking.scores.tolist(), strict=True)
    ]


def group_duplicates(ranking: Ranking, vectors: Callable[[np.ndarray], np.ndarray], threshold: float) -> list[Group]:
    """Group each row under the best result whose vector has at least a certain cosine with the row's own.

    A row that belongs to no earlier result is a result itself, so the results of a longer ranking begin with those of
    a shorter one.

    Args:
        vectors: the unit vectors of some keys, float32 ``[n, dim]``.
        threshold: the least cosine of duplicates.
    """
    least = threshold - ROUNDING
    members: list[list[int]] = []
    leaders: list[np.ndarray] = []
    for start in range(0, len(ranking), _BLOCK):
        block = vectors(ranking.keys[start : start + _BLOCK])
        joined = _first_at_least(block, np.concatenate(leaders), least) if leaders else np.full(len(block), -1)
        alike = block @ block.T >= least
        before = len(members)
        fresh: list[int] = []
        for row, joins in enumerate(joined.tolist()):
            near = np.flatnonzero(alike[row, fresh])
            if joins >= 0:
                leader = joins
            elif len(near):
                leader = before + int(near[0])
            else:
                leader = len(members)
                members.append([])
                fresh.append(row)
            members[leader].append(start + row)
        leaders.append(block[fresh])
    keys, scores = ranking.keys, ranking.scores
    return [
        Group(key=int(keys[first]), score=float(scores[first]), duplicates=tuple(keys[others].tolist()))
        for first, *others in members
    ]


def _first_at_least(block: np.ndarray, leaders: np.ndarray, least: float) -> np.ndarray:
    """Number of the first leader whose cosine is high enough, for each row of a block; -1 if there is none."""
    first = np.full(len(block), -1)
    for start in range(0, len(leaders), _LEADERS_PER_PRODUCT):
        alike = block @ leaders[start : start + _LEADERS_PER_PRODUCT].T >= least
        found = (first < 0) & alike.any(axis=1)
        first[found] = start + alike[found].argmax(axis=1)
    return first


def diversify(relevance: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Order results by maximal marginal relevance: each time the one that is relevant and unlike those before it.

    The next result is the one with the highest ``TRADE_OFF * relevance - (1 - TRADE_OFF) * similarity``, where the
    similarity is the highest cosine with a result chosen before. Cosines of a caption with images are much lower, and
    closer to each other, than cosines of images among themselves. So both are scaled to 0..1 over these results first;
    otherwise similarity alone would decide.

    Source: Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking, SIGIR 1998.

    Args:
        relevance: float ``[n]``.
        vectors: unit vectors, float32 ``[n, dim]``.

    Returns:
        Positions in their new order, int64 ``[n]``; of equal ones the earlier comes first.
    """
    similarity = _scaled(vectors @ vectors.T)
    relevance = _scaled(np.asarray(relevance, dtype=np.float64))
    nearest = np.zeros(len(relevance))
    left = np.ones(len(relevance), dtype=bool)
    order = np.empty(len(relevance), dtype=np.int64)
    for place in range(len(order)):
        marginal = np.where(left, TRADE_OFF * relevance - (1 - TRADE_OFF) * nearest, -np.inf)
        order[place] = chosen = int(marginal.argmax())
        left[chosen] = False
        nearest = similarity[chosen] if place == 0 else np.maximum(nearest, similarity[chosen])
    return order


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1; zeros if all are equal."""
    if not values.size:
        return values
    low, high = values.min(), values.max()
    scaled: np.ndarray = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return scaled
