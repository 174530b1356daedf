"""How a query is searched: exactly, over the rows that a filter leaves, or by the approximate index."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from llm2clip_search.vectorindex.faiss_index import GPU_MAX_K
from llm2clip_search.vectorindex.kinds import IndexKind, Ivf

Strategy = Literal["nothing", "exact", "exact over matches", "approximate", "approximate over matches"]

GATHER_LIMIT = 50_000
"""Up to this many matches of a filter, their vectors are gathered and compared exactly."""
GATHER_SHARE = 0.02
"""In a large corpus, the share of matches up to which gathering beats a filtered approximate search: a walk over a
graph or over lists that may keep one vector in fifty spends its effort on those that the filter drops."""
APPROXIMATE_MAX_K = 500
"""Most results that an approximate index is asked for; deeper pages are searched exactly and miss nothing."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """The decision and what it is based on."""

    strategy: Strategy
    rows: int
    """Live rows of the index."""
    matches: int
    """Rows that the filter leaves; all rows if there is no filter."""
    device: Literal["cpu", "gpu"]
    reason: str
    ann: str | None = None
    """Kind of the approximate index as a FAISS factory string; None when the search is exact."""
    recall_at_10: float | None = None
    """Recall of the approximate index against exact search, measured when it was built."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_search(
    *, rows: int, matches: int | None, k: int, ann: IndexKind | None, recall_at_10: float | None, gpu: bool = False
) -> SearchPlan:
    """Choose a strategy.

    Args:
        rows: live rows.
        matches: rows that the filter leaves; None if there is no filter.
        k: results wanted, skipped ones included.
        ann: kind of the approximate index; None if there is none.
        recall_at_10: its measured recall.
        gpu: True if FAISS has a GPU. Its classic GPU indices ignore selectors, so only a search without a filter may
            run there.
    """
    count = rows if matches is None else matches
    common: dict[str, Any] = {"rows": rows, "matches": count}
    if count == 0:
        reason = "the index is empty" if rows == 0 else "no row meets the filter"
        return SearchPlan(strategy="nothing", device="cpu", reason=reason, **common)
    deep = k > APPROXIMATE_MAX_K
    if ann is None or deep:
        if matches is None:
            reason = f"{rows:,} rows are few enough to compare with all"
            if ann is not None:
                reason = f"{k:,} results are more than the {APPROXIMATE_MAX_K} that {ann.factory} is asked for"
            device: Literal["cpu", "gpu"] = "gpu" if gpu and min(k, rows) <= GPU_MAX_K else "cpu"
            return SearchPlan(strategy="exact", device=device, reason=reason, **common)
        return SearchPlan(
            strategy="exact over matches",
            device="cpu",
            reason=f"the filter leaves {count:,} of {rows:,} rows",
            **common,
        )
    limit = max(GATHER_LIMIT, int(GATHER_SHARE * rows))
    if matches is not None and matches <= limit:
        reason = (
            f"the filter leaves {count:,} of {rows:,} rows, at most {limit:,}: their vectors are gathered and compared"
        )
        return SearchPlan(strategy="exact over matches", device="cpu", reason=reason, **common)
    if matches is not None:
        return SearchPlan(
            strategy="approximate over matches",
            device="cpu",
            reason=f"the filter leaves {count:,} of {rows:,} rows, more than {limit:,}: the index skips the others",
            ann=ann.factory,
            recall_at_10=recall_at_10,
            **common,
        )
    return SearchPlan(
        strategy="approximate",
        device="gpu" if gpu and isinstance(ann, Ivf) else "cpu",
        reason=f"{rows:,} rows have an approximate index",
        ann=ann.factory,
        recall_at_10=recall_at_10,
        **common,
    )
