"""Operating points: how much effort buys how much recall, measured on one index."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """One way of searching an approximate index, and what it gave when the index was built."""

    depth: int
    """Neighbours that were asked for; `recall` is recall@depth."""
    effort: int
    """``nprobe`` of inverted lists, ``efSearch`` of graphs."""
    candidates: int
    """Results of the index that are ranked again by their stored vectors."""
    recall: float
    """Share of the exact ``depth`` nearest neighbours that were found."""
    milliseconds: float
    """Median time of one query, ranking included, on the machine that built the index."""


def choose_point(points: Sequence[OperatingPoint], *, depth: float, recall: float) -> OperatingPoint | None:
    """The fastest point that reaches a recall.

    Args:
        depth: neighbours wanted. A filter that leaves a share ``s`` of the rows at random makes the ``k`` best matches
            the best of about ``k / s`` neighbours, which is the depth then.

    Returns:
        None if no point was measured at that depth or deeper, or none reaches the recall.
    """
    deep = min((point.depth for point in points if point.depth >= depth), default=None)
    good = [point for point in points if point.depth == deep and point.recall >= recall]
    return min(good, key=lambda point: (point.milliseconds, point.candidates), default=None)


def fastest(points: Sequence[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    """The Pareto front of recall and time at each depth, by depth and time."""
    kept: list[OperatingPoint] = []
    best: dict[int, float] = {}
    for point in sorted(points, key=lambda point: (point.depth, point.milliseconds, -point.recall)):
        if point.recall > best.get(point.depth, -math.inf):
            kept.append(point)
            best[point.depth] = point.recall
    return tuple(kept)
