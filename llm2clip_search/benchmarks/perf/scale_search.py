"""What one search costs in an index, exactly and approximately, with and without a filter."""

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm2clip_search.benchmarks.perf.timing import median_ms, seconds_of
from llm2clip_search.engine import SearchIndex, SearchPlan
from llm2clip_search.engine.candidates import Matches
from llm2clip_search.store import Snapshot
from llm2clip_search.vectorindex.exact import rank_again
from llm2clip_search.vectorindex.faiss_index import load_index
from llm2clip_search.vectorindex.faiss_library import import_faiss
from llm2clip_search.vectorindex.kinds import kind_of

QUERIES = 256
"""Queries that recall is measured with."""
TIMED = 31
"""Number of queries timed one by one."""
EXACT_TIMED = 7
SHARES = (0.0001, 0.01, 0.1, 0.5)
"""Of all rows, those that a filter leaves, drawn at random."""
COPIED_ROWS = 2_000_000
"""Up to this many rows, FAISS's own flat index of float16 vectors is compared; it copies all of them."""
K = 10


@dataclass(frozen=True, kw_only=True)
class FilteredCost:
    """One search over a share of the rows."""

    share: float
    exact_ms: float
    engine_ms: float
    """By the plan that the engine chooses."""
    strategy: str
    recall: float
    """Recall@10 of the engine against exact search."""


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """Times of single queries, medians in milliseconds, and recall@10."""

    exact_ms: float
    flat_ms: float | None
    """FAISS's own flat index of the same float16 vectors; None if it would copy too many."""
    build_seconds: float
    """Building and tuning the approximate index; close to 0 if there is none."""
    ann: str | None
    """Its kind; None if search is exact."""
    ann_bytes: int
    engine_ms: float
    """The engine's search, whatever its plan is."""
    recall: float
    """Of the engine against exact search."""
    direct_ms: float | None
    """The approximate index and the ranking of its candidates, without the engine around them."""
    overhead_ms: float
    """A whole query by the id of an image, but for the index's own search: plan, vector, selection, metadata of ten
    hits."""
    filtered: tuple[FilteredCost, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_search(snapshot: Snapshot, captions: np.ndarray, build_seconds: float) -> SearchCost:
    """Measure an index with embeddings of captions, float32 ``[n, dim]``."""
    index = _TimedIndex(snapshot)
    manifest, rows = snapshot.manifest, len(index)
    exact_ms = median_ms(lambda row: index.search(captions[row : row + 1], k=K, recall=1.0), range(EXACT_TIMED + 1))
    # Neither has asked its captions before: the vectors of their candidates may have to come from the disk.
    engine_ms = median_ms(lambda row: index.search(captions[row : row + 1], k=K), range(TIMED + 1))
    direct_ms = _direct_ms(index, captions[TIMED + 1 :])
    _, exact = index.search(captions, k=K, recall=1.0)
    _, found = index.search(captions, k=K)
    generator = np.random.default_rng(0)
    ids = index.snapshot.live_ids
    liked = generator.choice(ids, TIMED + 1).tolist()
    overheads = [_overhead_ms(index, each) for each in liked][1:]
    path = index.snapshot.ann_path
    return SearchCost(
        exact_ms=exact_ms,
        flat_ms=_flat_ms(index, captions) if rows <= COPIED_ROWS else None,
        build_seconds=build_seconds,
        ann=manifest.ann.factory if manifest.ann else None,
        ann_bytes=path.stat().st_size if path else 0,
        engine_ms=engine_ms,
        recall=_recall(exact, found),
        direct_ms=direct_ms,
        overhead_ms=statistics.median(overheads),
        filtered=tuple(
            _filtered(
                index, captions, share, np.sort(generator.choice(ids, max(1, round(share * rows)), replace=False))
            )
            for share in SHARES
        ),
    )


class _TimedIndex(SearchIndex):
    """Knows how long the index's own searches took."""

    searching = 0.0

    def candidates(
        self, vectors: np.ndarray, depth: int, plan: SearchPlan, matches: Matches | None
    ) -> tuple[np.ndarray, np.ndarray]:
        started = time.perf_counter()
        found = super().candidates(vectors, depth, plan, matches)
        self.searching += time.perf_counter() - started
        return found


def _overhead_ms(index: _TimedIndex, liked: int) -> float:
    before = index.searching
    spent = seconds_of(lambda: index.query(like=liked, k=K))
    return 1000 * (spent - (index.searching - before))


def _filtered(index: SearchIndex, captions: np.ndarray, share: float, matches: np.ndarray) -> FilteredCost:
    plan = index.plan_for(K, allowed=matches)
    _, exact = index.search(captions, k=K, allowed=matches, recall=1.0)
    _, found = index.search(captions, k=K, allowed=matches)

    def milliseconds(recall: float | None) -> float:
        # A filter gives a new array with each query.
        filters = [(row, matches.copy()) for row in range(EXACT_TIMED + 1)]
        return median_ms(
            lambda each: index.search(captions[each[0] : each[0] + 1], k=K, allowed=each[1], recall=recall), filters
        )

    return FilteredCost(
        share=share,
        exact_ms=milliseconds(1.0),
        engine_ms=milliseconds(None),
        strategy=plan.strategy,
        recall=_recall(exact, found),
    )


def _flat_ms(index: SearchIndex, captions: np.ndarray) -> float:
    faiss = import_faiss()
    flat = faiss.IndexScalarQuantizer(captions.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    flat.is_trained = True
    for _, block in index.snapshot.blocks():
        flat.add(block)
    return median_ms(lambda row: flat.search(captions[row : row + 1], K), range(EXACT_TIMED + 1))


def _direct_ms(index: SearchIndex, captions: np.ndarray) -> float | None:
    ann, path, plan = index.snapshot.manifest.ann, index.snapshot.ann_path, index.plan_for(K)
    if ann is None or path is None or plan.point is None:
        return None
    faiss_index = load_index(kind_of(ann.factory), path, rows=ann.rows, dim=captions.shape[1])

    def search(row: int) -> None:
        query = captions[row : row + 1]
        _, found = faiss_index.search(query, plan.candidates, effort=plan.effort)
        rank_again(index.snapshot, query, found, K)

    return median_ms(search, range(TIMED + 1))


def _recall(exact: np.ndarray, found: np.ndarray) -> float:
    hits = sum(len(np.intersect1d(expected, each)) for expected, each in zip(exact, found, strict=True))
    return hits / max(1, exact.size)
