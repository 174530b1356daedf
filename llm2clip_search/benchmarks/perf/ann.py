"""What approximate search costs in recall and gains in speed, over its search effort, against exact search.

Whatever is measured is an index on disk that `build_ann` built, asked as the engine asks it: the user's own, or
a scratch one, filled with the user's vectors or with synthetic ones.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.engine import SearchIndex
from llm2clip_search.engine.plan import APPROXIMATE_MAX_K
from llm2clip_search.errors import CorpusError, QueryError, StoreError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.vectorindex.exact import exact_search
from llm2clip_search.vectorindex.faiss_index import FaissIndex, one_thread
from llm2clip_search.vectorindex.kinds import Hnsw, kind_of
from llm2clip_search.vectorindex.recall import midpoint_queries

logger = logging.getLogger(__name__)

Kind = Literal["flat", "hnsw", "ivf"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EFFORTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""Multiples of the efSearch or nprobe that the engine takes for a first page of results."""
ROUNDS, ROUND_SECONDS = 3, 0.2
"""All queries are asked at once so often at least, and for so long; the median is kept. A batch may take a few
milliseconds, and one that waits for a core would decide its rate."""
SAME_SCORE = 1e-6
"""Cosines that differ by less are equal: float32 sums of another order of additions."""
BLOCK = 65_536
"""Vectors that are drawn, or committed to a scratch index, at a time."""

Search = Callable[[np.ndarray], np.ndarray]
"""float32 ``[n, dim]`` to int64 ``[n, k]``, best first, -1 where nothing more was found."""


@dataclass(frozen=True, kw_only=True)
class AnnPoint:
    """One index at one search effort."""

    kind: Kind
    factory: str | None
    """FAISS factory string; None for exact search."""
    setting: str
    """``exact``; ``efSearch=N`` or ``nprobe=N`` for FAISS's index alone; ``engine`` for a query's whole search: the
    engine asks the index for more than k and ranks what it finds again by the stored vectors, since inverted lists
    hold residuals rounded to float16, by which neighbours may change places."""
    recall: float
    """Mean over queries of the share of the k exact nearest neighbours found, see `recall_of`."""
    queries_per_second: float
    """All queries in one call, median over calls."""
    p50_ms: float
    """Milliseconds of a query asked alone: median, 95th and 99th percentile over all queries. FAISS's index alone is
    then asked by one thread; exact search and the engine take as many as they always do."""
    p95_ms: float
    p99_ms: float
    memory_bytes: int
    """Of FAISS's file, which a search reads into memory whole; for exact search, of the stored vectors, float16,
    which it maps."""
    build_seconds: float | None
    """To build it, measure its recall and write it, as ``index`` does; None for one that was there already, and for
    exact search."""
    on_front: bool = False
    """No other point has higher recall at its speed, or is faster at its recall."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AnnResult:
    """The points of all kinds, and what they were measured on."""

    vectors: str
    """Whose they are: the index's folder, or how they were drawn."""
    rows: int
    """Live vectors."""
    dim: int
    k: int
    queries: int
    points: tuple[AnnPoint, ...]

    def to_dicts(self) -> Iterator[dict[str, Any]]:
        """One a point."""
        common = {name: getattr(self, name) for name in ("vectors", "rows", "dim", "k", "queries")}
        return ({**common, **point.to_dict()} for point in self.points)


def benchmark_index(
    snapshot: Snapshot,
    *,
    kinds: Sequence[str] = (),
    k: int = 10,
    queries: int = 200,
    seed: int = 0,
) -> AnnResult:
    """Measure an index, asked in midpoints of random pairs of its vectors; it is only read.

    Args:
        kinds: those to build from its vectors, in a scratch folder; without any, exact search and the
            approximate index that it has are measured as they are.

    Raises:
        StoreError: no approximate index and no kinds, no rows, or FAISS is not installed.
        CorpusError: an unknown kind.
        QueryError: ``k`` beyond the rows, or beyond what is ever searched approximately.
    """
    wanted, ann, rows = _checked(kinds), snapshot.manifest.ann, snapshot.manifest.live
    if rows == 0:
        raise StoreError(f"{snapshot.folder} has no images; 'llm2clip-search index FOLDER' adds some.")
    _check_k(k, rows)
    if not wanted and ann is None:
        raise StoreError(
            f"{snapshot.folder} has no approximate index, its {rows:,} images are searched exactly;"
            " --kinds flat,hnsw,ivf measures what each kind would be, built from its vectors."
        )
    asked = midpoint_queries(snapshot, seed=seed, count=queries)
    if wanted:
        vectors = (block for _, block in snapshot.blocks())
        with _scratch(vectors, snapshot.manifest.model, snapshot.manifest.dim) as writer:
            points = list(_built(writer, wanted, asked, k, seed))
    else:
        logger.info("measuring %s", snapshot.folder)
        truth = Truth.of(snapshot, asked, k)
        points = [_exact_point(truth), *_approximate_points(snapshot, truth)]
    return AnnResult(
        vectors=str(snapshot.folder),
        rows=rows,
        dim=snapshot.manifest.dim,
        k=k,
        queries=queries,
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
    """Measure indices over vectors of a `SphereMixture`, asked in vectors of the same mixture that they do not hold.

    Raises as `benchmark_index`.
    """
    wanted = _checked(kinds)
    _check_k(k, rows)
    mixture = SphereMixture.of(rows, dim, seed=seed)
    asked = mixture.draw(queries, stream=0)
    vectors = (
        mixture.draw(min(BLOCK, rows - start), stream=stream)
        for stream, start in enumerate(range(0, rows, BLOCK), start=1)
    )
    name = f"synthetic, {mixture.clusters} clusters, seed {seed}"
    with _scratch(vectors, ModelIdentity(name, "", "", ""), dim) as writer:
        points = mark_front(list(_built(writer, wanted, asked, k, seed)))
    return AnnResult(vectors=name, rows=rows, dim=dim, k=k, queries=queries, points=points)


class Truth(NamedTuple):
    """Queries with the answers of exact search, which an index is compared with."""

    snapshot: Snapshot
    queries: np.ndarray
    """float32 ``[n, dim]``, unit."""
    scores: np.ndarray
    """float32 ``[n, k]``, best first."""
    ids: np.ndarray
    """int64 ``[n, k]``."""

    @classmethod
    def of(cls, snapshot: Snapshot, queries: np.ndarray, k: int) -> "Truth":
        return cls(snapshot, queries, *exact_search(snapshot, queries, k))

    @property
    def k(self) -> int:
        return int(self.ids.shape[1])


def recall_of(truth: Truth, found: np.ndarray) -> float:
    """Mean share of the k exact neighbours in ``found``, int64 ``[n, k]``.

    Exact search breaks ties by lower id, an index as it happens to; so any row counts for another of the same
    score, as far as exact search had rows of that score. Copies of a photograph thus cost no recall.
    """
    hits = 0
    for query, scores, expected, answer in zip(truth.queries, truth.scores, truth.ids, found, strict=True):
        own = np.unique(answer[answer >= 0])
        known = np.isin(expected, own)
        hits += int(known.sum())
        # A row that exact search left out stands for one that is missing when both have its last score.
        last = float(scores[-1])
        missing = int(((scores <= last + SAME_SCORE) & ~known).sum())
        others = own[~np.isin(own, expected)].tolist()
        if missing and others:
            hits += min(missing, int((np.abs(truth.snapshot.vectors(others) @ query - last) <= SAME_SCORE).sum()))
    return hits / truth.ids.size


def mark_front(points: Sequence[AnnPoint]) -> tuple[AnnPoint, ...]:
    """The same points, with those on the Pareto front of recall against queries a second marked."""
    return tuple(replace(point, on_front=not any(_dominates(other, point) for other in points)) for point in points)


def _dominates(better: AnnPoint, worse: AnnPoint) -> bool:
    a = (better.recall, better.queries_per_second)
    b = (worse.recall, worse.queries_per_second)
    return a != b and a[0] >= b[0] and a[1] >= b[1]


def _checked(kinds: Sequence[str]) -> tuple[Kind, ...]:
    for kind in kinds:
        if kind not in KINDS:
            raise CorpusError(f"There is no kind of index {kind!r}; there are: {', '.join(KINDS)}.")
    return cast("tuple[Kind, ...]", tuple(dict.fromkeys(kinds)))


def _check_k(k: int, rows: int) -> None:
    if k > rows:
        raise QueryError(f"-k {k} is more than the {rows:,} vectors there are; ask for fewer.")
    if k > APPROXIMATE_MAX_K:
        raise QueryError(f"-k {k} is more than {APPROXIMATE_MAX_K}, beyond which every search is exact; ask for fewer.")


@contextmanager
def _scratch(blocks: Iterable[np.ndarray], model: ModelIdentity, dim: int) -> Iterator[Writer]:
    """A new index of these vectors, float32 ``[m, dim]`` a block; it is deleted at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="llm2clip-ann-") as scratch,
        Writer.open(Path(scratch) / "index", model=model, dim=dim) as writer,
    ):
        logger.info("writing the vectors to a scratch index")
        for block in blocks:
            ids = writer.allocate(len(block))
            rows = [Row(id=i, path=str(i), content_hash="", size=0, mtime_ns=0, width=1, height=1) for i in ids]
            writer.commit(rows, block)
        yield writer


def _built(writer: Writer, kinds: Sequence[Kind], queries: np.ndarray, k: int, seed: int) -> Iterator[AnnPoint]:
    """Build each kind as the indexer does, and measure it."""
    truth = Truth.of(writer.snapshot, queries, k)
    for kind in kinds:
        if kind == "flat":
            logger.info("measuring exact search")
            yield _exact_point(truth)
            continue
        config = AnnConfig(kind=kind, seed=seed)
        wanted = config.kind_for(writer.manifest.live)
        assert wanted is not None, "flat is measured above, and there are rows"
        logger.info("building %s over %s vectors", wanted.factory, f"{writer.manifest.live:,}")
        started = time.perf_counter()
        build_ann(writer, config)
        seconds = time.perf_counter() - started
        logger.info("measuring %s", kind)
        yield from _approximate_points(writer.snapshot, truth, build_seconds=seconds)


def _exact_point(truth: Truth) -> AnnPoint:
    manifest = truth.snapshot.manifest
    return _point(
        lambda queries: exact_search(truth.snapshot, queries, truth.k)[1],
        truth,
        kind="flat",
        factory=None,
        setting="exact",
        memory_bytes=(manifest.live + manifest.dead) * manifest.dim * np.dtype(manifest.dtype).itemsize,
        build_seconds=None,
    )


def _approximate_points(snapshot: Snapshot, truth: Truth, *, build_seconds: float | None = None) -> Iterator[AnnPoint]:
    """The approximate index of a snapshot, alone at each effort, then within the engine."""
    ann, path = snapshot.manifest.ann, snapshot.ann_path
    assert ann is not None, "the caller has looked"
    assert path is not None, "the manifest names it"
    kind = kind_of(ann.factory)
    index = FaissIndex.load(kind, path)
    common: dict[str, Any] = {
        "kind": kind.name,
        "factory": kind.factory,
        "memory_bytes": path.stat().st_size,
        "build_seconds": build_seconds,
    }
    allowed = snapshot.live_ids if len(index) > snapshot.manifest.live else None
    name = "efSearch" if isinstance(kind, Hnsw) else "nprobe"
    for width, effort in sorted({kind.width(effort, truth.k): effort for effort in EFFORTS}.items()):

        def search(queries: np.ndarray, effort: float = effort) -> np.ndarray:
            return index.search(queries, truth.k, allowed=allowed, effort=effort)[1]

        yield _point(search, truth, setting=f"{name}={width}", alone_in=one_thread, **common)
    engine = SearchIndex(snapshot)
    yield _point(lambda queries: engine.search(queries, k=truth.k)[1], truth, setting="engine", **common)


def _point(
    search: Search, truth: Truth, *, alone_in: Callable[[], AbstractContextManager[None]] = nullcontext, **about: Any
) -> AnnPoint:
    """Ask all queries at once and each alone; the first call, which may load or map, is not timed."""
    found = search(truth.queries)
    rounds: list[float] = []
    while len(rounds) < ROUNDS or sum(rounds) < ROUND_SECONDS:
        rounds.append(_seconds(search, truth.queries))
    with alone_in():
        alone = [1000 * _seconds(search, query[None, :]) for query in truth.queries]
    p50, p95, p99 = np.percentile(alone, (50, 95, 99)).tolist()
    return AnnPoint(
        recall=recall_of(truth, found),
        queries_per_second=len(truth.queries) / statistics.median(rounds),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        **about,
    )


def _seconds(search: Search, queries: np.ndarray) -> float:
    started = time.perf_counter()
    search(queries)
    return time.perf_counter() - started
