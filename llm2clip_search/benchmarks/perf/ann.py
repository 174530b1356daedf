"""Recall and speed of approximate search compared with exact search, at several search efforts.

Every index but those of other libraries (`other_libraries`) is on disk and was built by `build_ann`: the user's own
index, or a temporary one filled with the user's vectors or with synthetic vectors.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.benchmarks.perf.other_libraries import PEERS, build_peer, saved_bytes
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.benchmarks.perf.timing import seconds_of
from llm2clip_search.engine import SearchIndex
from llm2clip_search.errors import CorpusError, QueryError, StoreError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.vectorindex.exact import ExactIndex, exact_search, rank_again
from llm2clip_search.vectorindex.faiss_index import load_index
from llm2clip_search.vectorindex.faiss_library import gpu_count, threads_for
from llm2clip_search.vectorindex.gpu import GpuListsIndex
from llm2clip_search.vectorindex.index import VectorIndex
from llm2clip_search.vectorindex.kinds import kind_of, runs_on_gpu
from llm2clip_search.vectorindex.operating import OperatingPoint
from llm2clip_search.vectorindex.policy import ANN_NAMES, AnnName
from llm2clip_search.vectorindex.tuning import DEPTHS, midpoint_queries

logger = logging.getLogger(__name__)

KINDS = ("flat", "hnsw", "ivf", "ivfrabitq")
"""Kinds of index that are measured with synthetic vectors unless others are named."""
ROUNDS, ROUND_SECONDS = 3, 0.2
"""Minimum number of batches with all queries, and minimum total time in seconds; the median of the batches is reported.
A batch may take only a few milliseconds, so a single one that waits for a core would distort the rate."""
SAME_SCORE = 1e-6
"""Cosines that differ by less are considered equal; float32 sums depend on the order of additions."""
CAPTIONS = 2**32
"""Stream of drawn captions, beyond those of the vectors."""
BLOCK = 65_536
"""Vectors that are drawn, or committed to a temporary index, at a time."""

Search = Callable[[np.ndarray], np.ndarray]
"""Maps queries float32 ``[n, dim]`` to ids int64 ``[n, k]``, best first, -1 if fewer are found."""


@dataclass(frozen=True, kw_only=True)
class AnnPoint:
    """The measurements of one index at one search effort."""

    kind: str
    """One of `policy.ANN_NAMES`, or another library."""
    factory: str | None
    """FAISS factory string, or another library's name and version; None for exact search."""
    setting: str
    """``exact``; an operating point of the index, whose candidates are ranked again by their stored vectors; the effort
    of another library; or ``engine`` for the complete search of a query at the recall that the index aims at."""
    recall: float
    """Share of the k exact nearest neighbours that are found, averaged over queries; see `recall_of`."""
    queries_per_second: float
    """With all queries in one call; median over calls."""
    p50_ms: float
    """Latency of single queries in milliseconds, with FAISS on one thread: median, 95th and 99th percentile over all
    queries."""
    p95_ms: float
    p99_ms: float
    memory_bytes: int
    """Size of the FAISS file, which is mapped; for exact search, size of the stored float16
    vectors, which are memory-mapped."""
    build_seconds: float | None
    """Time to build the index, measure its recall and write it, as ``index`` does; None for an existing index and for
    exact search."""
    on_front: bool = False
    """Whether the point is on the Pareto front of recall and queries per second."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AnnResult:
    """The points of all kinds of index, and the data that they were measured on."""

    vectors: str
    """Source of the vectors: the folder of the index, or how they were drawn."""
    rows: int
    """Number of live vectors."""
    dim: int
    k: int
    queries: int
    points: tuple[AnnPoint, ...]

    def to_dicts(self) -> Iterator[dict[str, Any]]:
        """One flat dictionary per point, for JSON."""
        common = {name: getattr(self, name) for name in ("vectors", "rows", "dim", "k", "queries")}
        return ({**common, **point.to_dict()} for point in self.points)


def benchmark_index(
    snapshot: Snapshot,
    *,
    kinds: Sequence[str] = (),
    captions: np.ndarray | None = None,
    k: int = 10,
    queries: int = 200,
    seed: int = 0,
) -> AnnResult:
    """Measure an index; it is only read.

    Args:
        kinds: kinds of index to build from its vectors in a temporary folder; if empty, exact search and the existing
            approximate index are measured.
        captions: embeddings of captions, float32 ``[n, dim]``: the first ``queries`` are searched for, and indices that
            are built are tuned with the others. None takes midpoints of random pairs of stored vectors.
        k: number of neighbours to search for.
        queries: number of queries.

    Raises:
        StoreError: the index has no rows, there is neither an approximate index nor ``kinds``, or FAISS is not
            installed.
        CorpusError: a kind is unknown.
        QueryError: ``k`` is larger than the number of rows, or so large that every search is exact.
    """
    wanted, ann, rows = _checked(kinds), snapshot.manifest.ann, snapshot.manifest.live
    if rows == 0:
        raise StoreError(f"{snapshot.folder} has no images.", hint="llm2clip-search index FOLDER adds images.")
    _check_k(k, rows)
    if not wanted and ann is None:
        raise StoreError(
            f"{snapshot.folder} has no approximate index; its {rows:,} images are searched exactly.",
            hint="--kinds flat,hnsw,ivf builds and measures each kind of index with its vectors.",
        )
    drawn = midpoint_queries(snapshot, seed=seed, count=queries) if captions is None else captions[:queries]
    if wanted:
        vectors = (block for _, block in snapshot.blocks())
        with _temporary_index(vectors, snapshot.manifest.model, snapshot.manifest.dim) as writer:
            others = captions[queries:] if captions is not None and len(captions) > queries else None
            points = list(_built(writer, wanted, drawn, k, seed, lambda _: others))
    else:
        logger.info("measuring %s", snapshot.folder)
        truth = ExactNeighbours.of(snapshot, drawn, k)
        points = [*_exact_points(truth), *_approximate_points(snapshot, truth)]
    return AnnResult(
        vectors=str(snapshot.folder),
        rows=rows,
        dim=snapshot.manifest.dim,
        k=k,
        queries=len(drawn),
        points=mark_front(points),
    )


def benchmark_synthetic(
    rows: int,
    *,
    dim: int,
    kinds: Sequence[str] = KINDS,
    k: int = 10,
    queries: int = 200,
    seed: int = 0,
) -> AnnResult:
    """Measure indices of vectors drawn from a `SphereMixture`, with its captions as queries.

    Arguments and errors as for `benchmark_index`.
    """
    wanted = _checked(kinds)
    _check_k(k, rows)
    mixture = SphereMixture.of(rows, dim, seed=seed)
    drawn = mixture.captions(queries, stream=CAPTIONS)
    vectors = (
        mixture.draw(min(BLOCK, rows - start), stream=stream)
        for stream, start in enumerate(range(0, rows, BLOCK), start=1)
    )
    name = f"synthetic, {mixture.clusters} clusters, seed {seed}"
    with _temporary_index(vectors, ModelIdentity(name, "", "", ""), dim) as writer:
        others = mixture.captions(256, stream=CAPTIONS + 1)
        points = mark_front(list(_built(writer, wanted, drawn, k, seed, lambda _: others)))
    return AnnResult(vectors=name, rows=rows, dim=dim, k=k, queries=queries, points=points)


class ExactNeighbours(NamedTuple):
    """Queries and their exact nearest neighbours, the reference for recall."""

    snapshot: Snapshot
    queries: np.ndarray
    """float32 ``[n, dim]``, L2-normalised."""
    scores: np.ndarray
    """float32 ``[n, k]``, best first."""
    ids: np.ndarray
    """int64 ``[n, k]``."""

    @classmethod
    def of(cls, snapshot: Snapshot, queries: np.ndarray, k: int) -> "ExactNeighbours":
        return cls(snapshot, queries, *exact_search(snapshot, queries, k))

    @property
    def k(self) -> int:
        return int(self.ids.shape[1])


def recall_of(truth: ExactNeighbours, found: np.ndarray) -> float:
    """Share of the k exact neighbours that are in ``found``, averaged over queries.

    Exact search breaks ties by id, approximate search arbitrarily. So a row counts as found if another row with the
    same score is found, up to the number of rows with that score among the exact neighbours. Copies of a photograph
    therefore do not lower recall.

    Args:
        found: int64 ``[n, k]``, ids; -1 for nothing.
    """
    hits = 0
    for query, scores, expected, answer in zip(truth.queries, truth.scores, truth.ids, found, strict=True):
        own = np.unique(answer[answer >= 0])
        known = np.isin(expected, own)
        hits += int(known.sum())
        # A row outside the exact neighbours replaces a missing one if both have the lowest score among these.
        last = float(scores[-1])
        missing = int(((scores <= last + SAME_SCORE) & ~known).sum())
        others = own[~np.isin(own, expected)].tolist()
        if missing and others:
            hits += min(missing, int((np.abs(truth.snapshot.vectors(others) @ query - last) <= SAME_SCORE).sum()))
    return hits / truth.ids.size


def mark_front(points: Sequence[AnnPoint]) -> tuple[AnnPoint, ...]:
    """The points, with those on the Pareto front of recall and queries per second marked."""
    return tuple(replace(point, on_front=not any(_dominates(other, point) for other in points)) for point in points)


def _dominates(better: AnnPoint, worse: AnnPoint) -> bool:
    a = (better.recall, better.queries_per_second)
    b = (worse.recall, worse.queries_per_second)
    return a != b and a[0] >= b[0] and a[1] >= b[1]


def _checked(kinds: Sequence[str]) -> tuple[str, ...]:
    known = (*(name for name in ANN_NAMES if name != "auto"), *PEERS)
    for kind in kinds:
        if kind not in known:
            raise CorpusError(f"There is no kind of index {kind!r}; there are {', '.join(known)}.")
    return tuple(dict.fromkeys(kinds))


def _check_k(k: int, rows: int) -> None:
    if k > rows:
        raise QueryError(f"{k} neighbours cannot be found among {rows:,} vectors.", hint="Choose a smaller -k.")
    if k > DEPTHS[-1]:
        raise QueryError(
            f"Searches for {k} neighbours are always exact, as for all k over {DEPTHS[-1]}.",
            hint="Choose a smaller -k.",
        )


@contextmanager
def _temporary_index(blocks: Iterable[np.ndarray], model: ModelIdentity, dim: int) -> Iterator[Writer]:
    """A new index of the given vectors, float32 ``[m, dim]`` per block; it is deleted on exit."""
    with (
        tempfile.TemporaryDirectory(prefix="llm2clip-ann-") as scratch,
        Writer.open(Path(scratch) / "index", model=model, dim=dim) as writer,
    ):
        logger.info("writing the vectors to a temporary index")
        for block in blocks:
            ids = writer.allocate(len(block))
            rows = [Row(id=i, path=str(i), content_hash="", size=0, mtime_ns=0, width=1, height=1) for i in ids]
            writer.commit(rows, block)
        yield writer


def _built(
    writer: Writer,
    kinds: Sequence[str],
    queries: np.ndarray,
    k: int,
    seed: int,
    captions: Callable[[int], np.ndarray | None],
) -> Iterator[AnnPoint]:
    """Build each kind of index as the indexer does, and measure it."""
    truth = ExactNeighbours.of(writer.snapshot, queries, k)
    for kind in kinds:
        if kind == "flat":
            logger.info("measuring exact search")
            yield from _exact_points(truth)
        elif kind in PEERS:
            yield from _peer_points(kind, truth)
        else:
            config = AnnConfig(kind=cast(AnnName, kind), seed=seed)
            wanted = config.kind_for(writer.manifest.live, writer.manifest.dim)
            assert wanted is not None, "flat is measured above, and there are rows"
            logger.info("building %s over %s vectors", wanted.factory, f"{writer.manifest.live:,}")
            seconds = seconds_of(partial(build_ann, writer, config, captions=captions))
            logger.info("measuring %s", kind)
            yield from _approximate_points(writer.snapshot, truth, build_seconds=seconds)


def _exact_points(truth: ExactNeighbours) -> Iterator[AnnPoint]:
    """Measure exact search on the CPU, and on a GPU if there is one."""
    manifest = truth.snapshot.manifest
    on_cpu, engine = ExactIndex(truth.snapshot, manifest.live), SearchIndex(truth.snapshot)
    searches: dict[str, Search] = {"exact": lambda queries: on_cpu.search(queries, truth.k)[1]}
    if gpu_count():
        searches["exact, GPU"] = lambda queries: engine.search(queries, k=truth.k, recall=1.0)[1]
    for setting, search in searches.items():
        yield _point(
            search,
            truth,
            kind="flat",
            factory=None,
            setting=setting,
            memory_bytes=(manifest.live + manifest.dead) * manifest.dim * np.dtype(manifest.dtype).itemsize,
            build_seconds=None,
        )


def _approximate_points(
    snapshot: Snapshot, truth: ExactNeighbours, *, build_seconds: float | None = None
) -> Iterator[AnnPoint]:
    """Measure the approximate index of a snapshot at each of its operating points, then within the engine."""
    ann, path = snapshot.manifest.ann, snapshot.ann_path
    assert ann is not None, "checked by the caller"
    assert path is not None, "the manifest names it"
    kind = kind_of(ann.factory)
    index = load_index(kind, path, rows=ann.rows, dim=snapshot.manifest.dim)
    common: dict[str, Any] = {
        "kind": kind.name,
        "factory": kind.factory,
        "memory_bytes": path.stat().st_size,
        "build_seconds": build_seconds,
    }
    allowed = snapshot.live_ids if len(index) > snapshot.manifest.live else None
    copied = gpu_count() and allowed is None and runs_on_gpu(kind, candidates=1, effort=1)
    on_gpu = GpuListsIndex(index) if copied else None
    depth = min((point.depth for point in ann.points if point.depth >= truth.k), default=ann.points[-1].depth)
    for point in (point for point in ann.points if point.depth == depth):

        def search(queries: np.ndarray, point: OperatingPoint = point, searched: VectorIndex = index) -> np.ndarray:
            wanted = max(point.candidates, truth.k)
            _, found = searched.search(queries, wanted, allowed=allowed, effort=point.effort)
            return rank_again(snapshot, queries, found, truth.k)[1]

        setting = f"{kind.effort_name}={point.effort}, {point.candidates} candidates"
        yield _point(search, truth, setting=setting, **common)
        if on_gpu is not None and runs_on_gpu(kind, candidates=max(point.candidates, truth.k), effort=point.effort):
            yield _point(partial(search, searched=on_gpu), truth, setting=f"{setting}, GPU", **common)
    engine = SearchIndex(snapshot)
    yield _point(lambda queries: engine.search(queries, k=truth.k)[1], truth, setting="engine", **common)


def _peer_points(name: str, truth: ExactNeighbours) -> Iterator[AnnPoint]:
    """Build an index with another library from the same vectors, and measure it at several efforts."""
    logger.info("building %s", name)
    started = time.perf_counter()
    peer = build_peer(name, truth.snapshot.blocks(), rows=truth.snapshot.manifest.live, dim=truth.queries.shape[1])
    seconds, size = time.perf_counter() - started, saved_bytes(peer)
    logger.info("measuring %s", name)
    for effort in peer.efforts:

        def search(queries: np.ndarray, effort: int = effort) -> np.ndarray:
            return peer.search(queries, truth.k, effort)

        yield _point(
            search,
            truth,
            kind=name,
            factory=peer.description,
            setting=f"{peer.effort_name}={effort}",
            memory_bytes=size,
            build_seconds=seconds,
        )


def _point(
    search: Search,
    truth: ExactNeighbours,
    **about: Any,
) -> AnnPoint:
    """Run all queries at once and one by one; the first call, which may load or map files, is not timed."""
    found = search(truth.queries)
    rounds: list[float] = []
    while len(rounds) < ROUNDS or sum(rounds) < ROUND_SECONDS:
        rounds.append(seconds_of(lambda: search(truth.queries)))
    with threads_for(1):
        alone = [1000 * seconds_of(partial(search, query[None, :])) for query in truth.queries]
    p50, p95, p99 = np.percentile(alone, (50, 95, 99)).tolist()
    return AnnPoint(
        recall=recall_of(truth, found),
        queries_per_second=len(truth.queries) / statistics.median(rounds),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        **about,
    )
