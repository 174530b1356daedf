"""How a query is searched where an index was published to a serving engine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm2clip_search.engine.plan import SearchPlan
from llm2clip_search.vectorindex.operating import OperatingPoint
from llm2clip_search.vectorindex.serving.state import Measured, ServingPoint

DEPTH = 10
"""Neighbours that recall was measured for."""
GATHERED = 3
"""How much longer a row takes that is gathered for exact search than one of a scan over all."""
SAME_SHARE = 1.25
"""Factor between two shares up to which a smaller one is searched like the other."""
NEXT_TO = 2
"""Factor up to which a larger one need not be: engines compare all rows of a small share without being told to."""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What a plan depends on, besides the query."""

    name: str
    """URL of the engine."""
    measured: Measured | None
    """What the last publish measured; None if none ended."""
    rows: int
    """Live rows of the index."""
    most_ids: int
    ms_per_id: float
    """As of the engine."""
    is_at_hand: bool
    """The index is there too, so that rows can be compared exactly here."""


def plan_engine(
    facts: EngineFacts,
    *,
    matches: int | None,
    k: int,
    recall: float,
    untranslated: str = "",
    tail: int = 0,
    slack: int = 0,
) -> SearchPlan:
    """Choose the engine's effort, or exact search where its graph cannot reach the recall or answer the condition.

    Args:
        matches: rows that the filter leaves; None if there is no filter.
        k: results wanted, skipped ones included.
        recall: share of the exact results that must be found; 1 is exact search.
        untranslated: why the engine cannot be sent the condition; empty if it can.
        tail: matching rows that the engine does not hold as they are.
        slack: rows that it still holds and that do not count any more.
    """
    count = facts.rows if matches is None else matches
    k = min(k, count)
    common: dict[str, Any] = {"rows": facts.rows, "matches": count}
    if count == 0:
        reason = "the index is empty" if facts.rows == 0 else "no row meets the filter"
        return SearchPlan(strategy="nothing", device="cpu", reason=reason, **common)
    left = f"{facts.rows:,} rows" if matches is None else f"the filter leaves {count:,} of {facts.rows:,} rows"
    over = "" if matches is None else " over matches"

    def exact(reason: str) -> SearchPlan:
        device: Any = "cpu" if facts.is_at_hand else "engine"
        strategy: Any = f"exact{over}"
        return SearchPlan(strategy=strategy, device=device, reason=f"{left}; {reason}", candidates=k, **common)

    points = () if facts.measured is None else facts.measured.points
    point = choose_serving_point(points, share=count / facts.rows, recall=recall)
    if point is None or recall == 1.0:
        return exact(_why_exact(facts, recall))
    assert facts.measured is not None, "a point of it was chosen"
    engine_ms, all_ms = point.milliseconds, facts.measured.exact_ms
    if point.effort is None:
        engine_ms *= max(1.0, count / (point.share * facts.rows))
    if untranslated:
        if better := _why_here(facts, count, engine_ms, untranslated):
            return exact(better)
        left = f"{left}, whose ids are sent: {untranslated}"
    elif point.effort is None and facts.is_at_hand and all_ms < engine_ms:
        # Here the condition would be evaluated as well, which takes a part of the time of comparing all rows.
        return exact(f"comparing all rows takes about {all_ms:.1f} ms, these in {facts.name} {engine_ms:.1f} ms")
    if point.effort is None:
        return SearchPlan(
            strategy="exact over matches",
            device="engine",
            reason=f"{left}; {facts.name} compares them in about {engine_ms:.1f} ms",
            candidates=min(k + slack, facts.rows + slack),
            tail=tail,
            **common,
        )
    return SearchPlan(
        strategy="approximate over matches" if matches is not None else "approximate",
        device="engine",
        reason=f"{left}; {facts.name} takes about {engine_ms:.1f} ms",
        ann=facts.name,
        point=OperatingPoint(
            depth=DEPTH,
            effort=point.effort,
            candidates=DEPTH,
            recall=point.recall,
            milliseconds=point.milliseconds,
        ),
        effort=math.ceil(point.effort * max(1.0, k / DEPTH)),
        candidates=min(k + slack, facts.rows + slack),
        tail=tail,
        **common,
    )


def _why_exact(facts: EngineFacts, recall: float) -> str:
    if recall == 1.0:
        return "all of the best results are wanted"
    if facts.measured is None:
        return f"the recall of {facts.name} is not known, because no publish to it has ended"
    return f"no measured effort of {facts.name} finds {recall:.1%} of the best {DEPTH}"


def _why_here(facts: EngineFacts, count: int, engine_ms: float, untranslated: str) -> str:
    """Why rows are compared here whose condition an engine cannot be sent; empty if sending their ids is faster."""
    assert facts.measured is not None, "a point of it was chosen"
    if count > facts.most_ids:
        return f"{facts.name} cannot be sent so many ids, nor the condition: {untranslated}"
    exact_ms = GATHERED * facts.measured.exact_ms * count / facts.rows
    if exact_ms <= engine_ms + count * facts.ms_per_id:
        return f"comparing them takes about {exact_ms:.1f} ms, less than sending their ids: {untranslated}"
    return ""


def choose_serving_point(points: Sequence[ServingPoint], *, share: float, recall: float) -> ServingPoint | None:
    """The least effort that reached a recall with the filters whose shares are next to a query's.

    Args:
        share: of the rows that the query's filter leaves.

    Returns:
        None if no effort did.
    """
    shares = sorted({point.share for point in points})
    # Engines compare all rows of a small share and walk a graph for a large one. Where that changes is not known, so a
    # share that is a measured one or little more takes the effort of the next one as well.
    least = max((each for each in shares if each <= share * SAME_SHARE), default=share)
    most = min((each for each in shares if each >= share * NEXT_TO), default=share)
    around = {each for each in shares if least <= each <= most} if share < 1 else set[float]()
    around = around or set(shares[-1:])
    chosen = [
        min(
            (point for point in points if point.share == each and point.recall >= recall),
            key=_diligence,
            default=None,
        )
        for each in around
    ]
    good = [point for point in chosen if point is not None]
    return max(good, key=_diligence) if good and len(good) == len(chosen) else None


def _diligence(point: ServingPoint) -> float:
    """Comparing all rows finds what any effort finds."""
    return math.inf if point.effort is None else point.effort
