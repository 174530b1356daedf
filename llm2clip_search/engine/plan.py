"""How a query is searched: exactly, over a gathered subset, or by the approximate index."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Strategy = Literal["nothing", "exact", "exact over matches", "approximate", "approximate over matches"]

GATHER_LIMIT = 50_000
"""Matches of a filter up to which their vectors are gathered and compared one by one."""
GATHER_SHARE = 0.02
"""Of a large corpus, the share of matches up to which gathering beats a masked approximate search:
a graph or list walk that may keep one hit in fifty spends its effort on what the filter drops."""
APPROXIMATE_MAX_K = 500
"""Results up to which an approximate index is asked; deep pages are searched exactly, and are whole."""
GPU_MAX_K = 2048
"""Results a query that FAISS's GPU indices can give."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """The decision, with what it rests on."""

    strategy: Strategy
    rows: int
    """Live rows of the index."""
    matches: int
    """Rows that the filter leaves; all of them without a filter."""
    device: Literal["cpu", "gpu"]
    reason: str
    ann: str | None = None
    """FAISS factory string, when the search is approximate."""
    recall_at_10: float | None = None
    """Of the approximate index against exact search, measured when it was built."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_search(
    *, rows: int, matches: int | None, k: int, ann: str | None, recall_at_10: float | None, gpu: bool = False
) -> SearchPlan:
    """Choose a strategy.

    Args:
        rows: live rows.
        matches: rows that the filter leaves; None without a filter.
        k: results wanted, those passed over included.
        ann: factory string of the approximate index; None when there is none.
        recall_at_10: its measured recall.
        gpu: whether FAISS has a GPU. Its classic GPU indices ignore selectors, so that only a search
            without filter may run there; a filtered one stays on the CPU and stays right.
    """
    count = rows if matches is None else matches
    common: dict[str, Any] = {"rows": rows, "matches": count}
    if count == 0:
        reason = "the index is empty" if rows == 0 else "no row meets the filter"
        return SearchPlan(strategy="nothing", device="cpu", reason=reason, **common)
    deep = k > APPROXIMATE_MAX_K
    if ann is None or deep:
        if matches is None:
            reason = f"{rows:,} rows are few enough to compare with each"
            if ann is not None:
                reason = f"{k:,} results are more than the {APPROXIMATE_MAX_K} that are asked of {ann}"
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
        reason = f"the filter leaves {count:,} of {rows:,} rows, at most {limit:,}: gathered and compared with each"
        return SearchPlan(strategy="exact over matches", device="cpu", reason=reason, **common)
    if matches is not None:
        return SearchPlan(
            strategy="approximate over matches",
            device="cpu",
            reason=f"the filter leaves {count:,} of {rows:,} rows, more than {limit:,}: the index skips the others",
            ann=ann,
            recall_at_10=recall_at_10,
            **common,
        )
    return SearchPlan(
        strategy="approximate",
        device="gpu" if gpu and ann.startswith("IVF") else "cpu",
        reason=f"{rows:,} rows are many, and an approximate index is built",
        ann=ann,
        recall_at_10=recall_at_10,
        **common,
    )
