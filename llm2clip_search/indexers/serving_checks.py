"""What a publish ends with: a sample of what an engine holds is compared, and its recall and time are measured."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm2clip_search.base.progress import Progress
from llm2clip_search.base.vectors import unit
from llm2clip_search.errors import EngineError
from llm2clip_search.indexers.published_rows import PublishedRows
from llm2clip_search.store import Snapshot
from llm2clip_search.vectorindex.exact import ExactIndex, exact_search, rank_again
from llm2clip_search.vectorindex.serving.engine import SAMPLES, ServingEngine, sample_below, samples_of
from llm2clip_search.vectorindex.serving.payload import payload_of
from llm2clip_search.vectorindex.serving.state import Measured, ServingPoint
from llm2clip_search.vectorindex.tuning import GOOD_ENOUGH, SAME_SCORE, midpoint_queries

CHECKED = 512
"""Rows whose vectors and columns are compared; all of a smaller index."""
ASKED = 16
"""Of these, vectors that are searched for: each has to find itself."""
LEAST_FOUND = 0.75
"""Share of them that is found at least. Less means that the engine searches something else than was sent."""
DEPTH = 10
QUERIES = 64
EXACT_TIMES = 5
"""Queries that exact search is timed with, here and in the engine."""
SHARES = (1.0, 0.1, 0.01, 0.001)
"""Of the rows, that filters leave when recall is measured."""
_AGAIN = "Delete the collection and publish again."


def check_sample(snapshot: Snapshot, engine: ServingEngine) -> int:
    """Compare some rows with those of the index, and search for some of them.

    Returns:
        The number of rows compared.

    Raises:
        EngineError: a vector or a column differs, or an engine does not find what it holds.
    """
    live = snapshot.live_ids
    if not len(live):
        return 0
    generator = np.random.default_rng()  # another sample each time
    ids = np.sort(generator.choice(live, size=min(CHECKED, len(live)), replace=False))
    check_vectors(snapshot, engine, ids, missing=True)
    rows = PublishedRows(snapshot)
    for batch in rows.of(ids):
        held = engine.rows(batch.ids.tolist(), rows.schema)
        for row in batch.table.to_pylist():
            if not _is_same(payload_of(row), payload_of(held.get(row["id"], {}))):
                raise EngineError(
                    f"The columns of id {row['id']} in {engine.name} differ from the index's.", hint=_AGAIN
                )
    asked = generator.choice(ids, size=min(ASKED, len(ids)), replace=False)
    queries = unit(snapshot.vectors(asked.tolist()))
    _, found = engine.search(queries, DEPTH, effort=engine.efforts[-1])
    scores, _ = rank_again(snapshot, queries, found, 1)
    own = (queries.astype(np.float64) * snapshot.vectors(asked.tolist())).sum(axis=1)
    if (share := float((scores[:, 0] >= own - SAME_SCORE).mean())) < LEAST_FOUND:
        raise EngineError(
            f"{engine.name} finds {share:.0%} of the stored vectors that it is searched for.", hint=_AGAIN
        )
    return len(ids)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two payloads are equal but for the last bits of floats, which Qdrant does not read back exactly."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-14)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[name]) for name, value in one.items())
    return type(one) is type(other) and bool(one == other)


def check_vectors(snapshot: Snapshot, engine: ServingEngine, ids: np.ndarray, *, missing: bool) -> None:
    """Compare vectors bit for bit.

    Args:
        ids: int64 ascending.
        missing: False if the engine may lack some of them.

    Raises:
        EngineError: one differs, or is not there.
    """
    found, vectors = engine.vectors(ids)
    if missing and len(found) < len(ids):
        absent = np.setdiff1d(ids, found)
        raise EngineError(f"{engine.name} lacks {len(absent)} of {len(ids)} rows, such as id {absent[0]}.", hint=_AGAIN)
    if not len(found):
        return
    stored = snapshot.vectors(found.tolist())
    if stored.shape != vectors.shape:
        raise EngineError(f"{engine.name} holds vectors of width {vectors.shape[1]}, not {stored.shape[1]}.")
    if len(wrong := np.flatnonzero((stored != vectors).any(axis=1))):
        raise EngineError(
            f"The vector of id {found[wrong[0]]} in {engine.name} differs from the index's: it was changed, or belongs"
            " to another index.",
            hint=_AGAIN,
        )


def measure(
    snapshot: Snapshot,
    engine: ServingEngine,
    captions: Callable[[int], np.ndarray | None],
    progress: Progress,
) -> Measured:
    """Recall@10 and times of an engine at its efforts, without a filter and with filters of several shares.

    With a filter it is timed as well how long the engine takes to compare all rows that are left: its graph may find
    too few of them at any effort.

    Args:
        captions: as of `ann.build_ann`.
        progress: called with ``measurements`` as they are made.
    """
    sample = captions(QUERIES)
    queries = midpoint_queries(snapshot, seed=0, count=QUERIES) if sample is None else sample
    live = snapshot.live_ids
    samples = samples_of(live)
    points: list[ServingPoint] = []
    efforts: Sequence[int | None] = (*engine.efforts, None)
    total = len(SHARES) * len(efforts)
    for number, share in enumerate(SHARES):
        below = round(share * SAMPLES)
        allowed = None if share == 1.0 else live[samples < below]
        condition = None if allowed is None else sample_below(below)
        if allowed is not None and len(allowed) < DEPTH:
            break
        truth, _ = exact_search(snapshot, queries, DEPTH, ids=allowed)
        recall = 0.0
        for step, effort in enumerate(efforts):
            if (share == 1.0) if effort is None else (recall >= GOOD_ENOUGH):
                continue
            asked = queries[:EXACT_TIMES] if effort is None else queries
            found, times = [], []
            for row in range(len(asked)):
                started = time.perf_counter()
                found.append(engine.search(asked[row : row + 1], DEPTH, condition=condition, effort=effort)[1])
                times.append(1000 * (time.perf_counter() - started))
            scores, _ = rank_again(snapshot, asked, np.concatenate(found), truth.shape[1])
            recall = float((scores >= truth[: len(asked), -1:] - SAME_SCORE).mean())
            points.append(
                ServingPoint(
                    share=share,
                    effort=effort,
                    recall=recall,
                    milliseconds=statistics.median(times),
                    p95_ms=float(np.quantile(times, 0.95)),
                )
            )
            progress("measurements", number * len(efforts) + step + 1, total, {})
    progress("measurements", total, total, {})
    exact, times = ExactIndex(snapshot, len(live)), []
    for row in range(min(EXACT_TIMES, len(queries))):
        started = time.perf_counter()
        exact.search(queries[row : row + 1], DEPTH)
        times.append(1000 * (time.perf_counter() - started))
    return Measured(
        queries="midpoints" if sample is None else "captions",
        exact_ms=statistics.median(times),
        points=tuple(points),
    )
