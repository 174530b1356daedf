"""Tuning: an approximate index is measured against exact search at many efforts when it is built."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.base.vectors import unit
from llm2clip_search.vectorindex.exact import ExactIndex, exact_search, rank_again
from llm2clip_search.vectorindex.faiss_index import FaissIndex, GraphIndex
from llm2clip_search.vectorindex.index import ShardedVectors
from llm2clip_search.vectorindex.operating import OperatingPoint, fastest

DEPTHS = (10, 100, 1000)
"""Neighbours that recall is measured for. Searches between two of them use the points of the deeper one."""
CANDIDATES = (10, 20, 50, 100, 200, 500, 1000, 2000, 4000)
"""Numbers of candidates that are tried."""
MOST_CANDIDATES = 50
"""Candidates per neighbour, at most."""
QUERIES = 256
TIMED_QUERIES = 9
SAME_SCORE = 1e-6
"""Cosines that differ by less count as equal: sums in another order."""
GOOD_ENOUGH = 0.9995
"""More effort than this recall needs is not tried."""


class StoredVectors(ShardedVectors, Protocol):
    """Stored vectors that can be looked up by id; a `store.Snapshot` is one."""

    @property
    def live_ids(self) -> np.ndarray:
        """int64 ascending."""

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """float32 ``[len(ids), dim]``."""


def midpoint_queries(stored: StoredVectors, *, seed: int, count: int = QUERIES) -> np.ndarray:
    """Midpoints of random pairs of stored vectors: near the data, but not in it.

    Captions ask from another part of the space, so this is for models that bring no captions along.

    Returns:
        float32 ``[count, dim]``, unit length.
    """
    pairs = np.random.default_rng(seed).choice(stored.live_ids, size=(count, 2))
    ids = np.unique(pairs)
    vectors = stored.vectors(ids.tolist())
    first, second = (np.searchsorted(ids, pairs[:, side]) for side in (0, 1))
    return unit(vectors[first] + vectors[second])


class Measured(NamedTuple):
    """What tuning found."""

    points: tuple[OperatingPoint, ...]
    """Those worth using (`operating.fastest`)."""
    exact_ms: float
    """Milliseconds of one exact query over all live rows."""
    filtered_ms: float
    """Milliseconds of one exact query over a tenth of them, drawn at random."""


def tune(
    stored: StoredVectors, index: FaissIndex, queries: np.ndarray, *, progress: Progress = no_progress
) -> Measured:
    """Measure an index at its efforts and at several numbers of candidates.

    Args:
        queries: float32 ``[n, dim]``, unit length.
        progress: called with ``efforts`` as they are measured.
    """
    rows = len(stored.live_ids)
    depths = [depth for depth in DEPTHS if depth == DEPTHS[0] or 10 * depth <= rows]
    widths = [width for width in CANDIDATES if width < rows] or [rows]
    # Dead vectors stay in the index until it is built again.
    allowed = stored.live_ids if len(index) > rows else None
    progress("efforts", 0, len(efforts := index.kind.efforts()), {})
    truth = _Truth(stored, queries, depths)
    queries = truth.queries
    points: list[OperatingPoint] = []
    for number, effort in enumerate(efforts, start=1):
        best = dict.fromkeys(depths, 0.0)
        positions: np.ndarray | None = None
        for width in widths:
            # More results make a graph search harder, but leave lists as they are: their longest answer holds all.
            if positions is None or isinstance(index, GraphIndex):
                wanted = width if isinstance(index, GraphIndex) else widths[-1]
                positions = truth.positions(index.search(queries, wanted, allowed=allowed, effort=effort)[1])
            for depth in depths:
                if not min(depth, widths[-1]) <= width <= MOST_CANDIDATES * depth:
                    continue
                search = partial(_search, stored, index, allowed, depth, width, effort)
                point = OperatingPoint(
                    depth=depth,
                    effort=effort,
                    candidates=width,
                    recall=truth.recall(positions, depth, width),
                    milliseconds=_milliseconds(search, queries),
                )
                points.append(point)
                best[depth] = max(best[depth], point.recall)
        progress("efforts", number, len(efforts), {})
        if min(best.values()) >= GOOD_ENOUGH:
            break
    exact = ExactIndex(stored, rows)
    tenth = np.sort(np.random.default_rng(0).choice(stored.live_ids, max(1, rows // 10), replace=False))
    return Measured(
        points=fastest(points),
        exact_ms=_milliseconds(lambda query: exact.search(query, DEPTHS[0]), queries),
        filtered_ms=_milliseconds(lambda query: exact.search(query, DEPTHS[0], allowed=tenth), queries),
    )


def _search(
    stored: StoredVectors,
    index: FaissIndex,
    allowed: np.ndarray | None,
    depth: int,
    width: int,
    effort: int,
    query: np.ndarray,
) -> None:
    """One approximate search as the engine does it."""
    _, found = index.search(query, width, allowed=allowed, effort=effort)
    rank_again(stored, query, found, depth)


def _milliseconds(search: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    """Of one query float32 ``[1, dim]``, the median of some; the first call is not counted."""
    times = []
    for row in range(min(TIMED_QUERIES + 1, len(queries))):
        started = time.perf_counter()
        search(queries[row : row + 1])
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[1:] or times)


class _Truth:
    """The exact neighbours of some queries."""

    def __init__(self, stored: StoredVectors, queries: np.ndarray, depths: Sequence[int]) -> None:
        # Copies of one image tie with each other. Where still more tie than were asked for, it cannot be told which
        # candidates count, and such queries are left out, unless all are like that.
        for wanted in (depths[-1] + DEPTHS[0], 4 * (depths[-1] + DEPTHS[0])):
            scores, self.ids = exact_search(stored, queries, wanted)
            last = scores[:, min(depths[-1], scores.shape[1]) - 1]
            clear = (scores[:, -1] < last - SAME_SCORE) | (scores.shape[1] < wanted)
            if clear.all():
                break
        self.queries = queries
        if clear.any():
            scores, self.ids, self.queries = scores[clear], self.ids[clear], queries[clear]
        self.counted = {
            depth: scores >= scores[:, min(depth, scores.shape[1]) - 1, None] - SAME_SCORE for depth in depths
        }
        """Which of the neighbours are as good as the ``depth`` best."""

    def positions(self, found: np.ndarray) -> np.ndarray:
        """Where each neighbour is among the candidates int64 ``[n, m]`` of its query; ``m`` if it is not there."""
        positions = np.full(self.ids.shape, found.shape[1])
        for row, candidates in enumerate(found):
            order = np.argsort(candidates, kind="stable")
            at = np.minimum(np.searchsorted(candidates, self.ids[row], sorter=order), len(order) - 1)
            there = candidates[order[at]] == self.ids[row]
            positions[row, there] = order[at[there]]
        return positions

    def recall(self, positions: np.ndarray, depth: int, width: int) -> float:
        """Recall@depth of the first ``width`` candidates; of neighbours that tie, any will do."""
        depth_or_all = min(depth, self.ids.shape[1])
        hits = ((positions < width) & self.counted[depth]).sum(axis=1)
        return float(np.minimum(hits, depth_or_all).mean() / depth_or_all)
