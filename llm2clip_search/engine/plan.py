"""How a query is searched: exactly, over the rows that a filter leaves, or by the approximate index."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llm2clip_search.store import AnnEntry
from llm2clip_search.vectorindex.exact import SLACK
from llm2clip_search.vectorindex.kinds import GPU_MAX_K, InvertedLists, kind_of, runs_on_gpu
from llm2clip_search.vectorindex.operating import OperatingPoint, choose_point

FILTER_MARGIN = 2
"""Matches need not lie around the query as all rows do. With twice the effort, recall over the rows that are farthest
from or nearest to some direction is as high as over rows drawn at random."""

Strategy = Literal["nothing", "exact", "exact over matches", "approximate", "approximate over matches"]


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """The decision and what it is based on."""

    strategy: Strategy
    rows: int
    """Live rows of the index."""
    matches: int
    """Rows that the filter leaves; all rows if there is no filter."""
    device: Literal["cpu", "gpu", "engine"]
    """``engine`` is a serving engine that the index was published to."""
    reason: str
    ann: str | None = None
    """Kind of the approximate index as a FAISS factory string, or URL of the engine; None when the search is exact."""
    point: OperatingPoint | None = None
    """How hard the approximate index searches, and what that gave when it was built; None when the search is exact."""
    effort: int = 0
    """``nprobe`` or ``efSearch`` of this search; more than the operating point's if there is a filter."""
    candidates: int = 0
    """Results of the approximate index that are ranked again by their stored vectors."""
    tail: int = 0
    """Rows that are not in the approximate index or the engine yet and are searched exactly beside it."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_search(
    *,
    rows: int,
    matches: int | None,
    k: int,
    ann: AnnEntry | None,
    recall: float,
    tail: int = 0,
    masked: bool = False,
    gpu: bool = False,
) -> SearchPlan:
    """Choose the strategy with the lowest measured cost that reaches the wanted recall.

    An exact search costs what it cost per row when the approximate index was built, with a filter or without. An
    approximate search costs what its operating point cost, and the exact search of the rows that are not in it yet. A
    filter that leaves a share of the rows needs the effort of a search that is deeper by its inverse, times
    `FILTER_MARGIN`. Graphs are not asked to filter: their walk ends among rows that the filter drops.

    Args:
        rows: live rows.
        matches: rows that the filter leaves; None if there is no filter.
        k: results wanted, skipped ones included.
        ann: the approximate index; None if there is none.
        recall: share of the exact results that must be found; 1 is exact search.
        tail: live rows that the approximate index does not hold.
        masked: True if it holds dead rows, which a selector keeps out.
        gpu: True if FAISS has a GPU. Its classic GPU indices ignore selectors, so only a search without a filter may
            run there.
    """
    count = rows if matches is None else matches
    k = min(k, count)
    filtered = matches is not None
    common: dict[str, Any] = {"rows": rows, "matches": count}
    if count == 0:
        reason = "the index is empty" if rows == 0 else "no row meets the filter"
        return SearchPlan(strategy="nothing", device="cpu", reason=reason, **common)
    left = f"the filter leaves {count:,} of {rows:,} rows" if filtered else f"{rows:,} rows"

    def exact(reason: str) -> SearchPlan:
        device: Literal["cpu", "gpu"] = "gpu" if gpu and not filtered and k + SLACK <= GPU_MAX_K else "cpu"
        return SearchPlan(
            strategy="exact over matches" if filtered else "exact", device=device, reason=f"{left}; {reason}", **common
        )

    if ann is None:
        return exact("there is no approximate index")
    kind, depth = kind_of(ann.factory), math.ceil(k * rows / count)
    point = choose_point(ann.points, depth=depth, recall=recall)
    if point is None or recall == 1.0 or (filtered and not isinstance(kind, InvertedLists)):
        return exact(_why_exact(ann, depth=depth, recall=recall, is_list=isinstance(kind, InvertedLists)))
    margin = FILTER_MARGIN if filtered else 1
    exact_ms = 10 * ann.filtered_ms * count / rows if filtered else ann.exact_ms
    approximate_ms = margin * point.milliseconds + ann.exact_ms * min(tail, count) / rows
    if exact_ms < approximate_ms:
        return exact(f"comparing all takes about {exact_ms:.1f} ms, {ann.factory} {approximate_ms:.1f} ms")
    nearest = choose_point(ann.points, depth=k, recall=recall) or point
    effort = margin * point.effort
    # The filter keeps a share of a deeper search's candidates.
    candidates = min(count, max(k, nearest.candidates, math.ceil(point.candidates * count / rows)))
    on_gpu = gpu and not filtered and not masked and runs_on_gpu(kind, candidates=candidates, effort=effort)
    return SearchPlan(
        strategy="approximate over matches" if filtered else "approximate",
        device="gpu" if on_gpu else "cpu",
        reason=f"{left}; {ann.factory} takes about {approximate_ms:.1f} ms, comparing all {exact_ms:.1f} ms",
        ann=ann.factory,
        point=point,
        effort=effort,
        candidates=candidates,
        tail=tail,
        **common,
    )


def _why_exact(ann: AnnEntry, *, depth: int, recall: float, is_list: bool) -> str:
    deepest = max(point.depth for point in ann.points)
    if recall == 1.0:
        return "all of the best results are wanted"
    if depth > deepest:
        return f"{ann.factory} was measured for {deepest:,} neighbours, not for the best {depth:,}"
    if choose_point(ann.points, depth=depth, recall=recall) is None:
        return f"no measured effort of {ann.factory} finds {recall:.1%} of the best {depth:,}"
    assert not is_list, "lists can be filtered"
    return f"{ann.factory} would miss some of the matches"
