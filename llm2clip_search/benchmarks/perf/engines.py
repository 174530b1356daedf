"""Serving engines beside the index: one index is published to each, searched there, changed and published again.

Each system answers the same queries as a user's would be: exact search, the index's own plan, the plan of each engine
beside the index, and that of each engine where the index is not at hand. Conditions are those of the columns,
translated for the engines.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.memory import PrivatePeak
from llm2clip_search.benchmarks.perf.ann import CAPTIONS
from llm2clip_search.benchmarks.perf.scale import BLOCK, synthetic_row
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.engine import Query, SearchIndex, Term
from llm2clip_search.engine.served_index import ServedIndex
from llm2clip_search.errors import CorpusError, EngineError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.indexers.publish import publish_index
from llm2clip_search.store import Snapshot, Writer
from llm2clip_search.store.compaction import compact
from llm2clip_search.vectorindex.exact import rank_again
from llm2clip_search.vectorindex.serving.engine import ServingEngine
from llm2clip_search.vectorindex.serving.opening import open_engine
from llm2clip_search.vectorindex.tuning import SAME_SCORE

logger = logging.getLogger(__name__)

LOCAL = ("qdrant-edge", "lance")
"""Engines that need no server: they are written to the folder of the run."""
CONDITIONS: dict[str, str | None] = {
    "all": None,
    "10 %": "width < 1100",
    "1 %": "width < 200",
    "0.1 %": "width < 110",
}
"""By the share of rows that they leave; widths are uniform over 100 to 10,099."""
QUERIES = 128
"""Captions that are asked one by one, each once; the first ones of a system are not counted."""
WARM = 8
K = 10
CHANGED = 1000
"""Rows that get other columns, and as many that are deleted, before the second publish."""
NEW_WIDTH = 20_000
"""Width of the rows that are changed, which no other has."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How one system answers at one share of the rows."""

    system: str
    share: str
    recall: float
    """Recall@10 against exact search, by scores: an equal one counts."""
    ms: float
    """Median of single searches, their candidates ranked again by stored vectors."""
    p95_ms: float
    condition_ms: float
    """Median time from the text of the condition to what the search is limited to: ids, or an engine's condition."""
    plan: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """What one publish took."""

    system: str
    added: int
    changed: int
    deleted: int
    seconds: float
    """With building the index of vectors, comparing a sample and measuring recall."""
    sent_seconds: float
    """Of these, for comparing and sending rows and deletions."""
    size: int | None
    """Bytes in the engine's folder; None for one elsewhere."""


@dataclass(frozen=True, kw_only=True)
class EnginesReport:
    """One run."""

    rows: int
    dim: int
    build_seconds: float
    """The index's own approximate index, built and tuned."""
    index_size: int
    """Bytes of the index on disk, its approximate index included."""
    published: tuple[Published, ...]
    answers: tuple[Answers, ...]
    updated: tuple[Published, ...]
    """The second publish, after which counts and answers were right."""
    answers_after: tuple[Answers, ...]
    peak_gb: float
    """Most memory of this process; mapped files are not counted."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def benchmark_engines(
    rows: int, *, dim: int = 512, to: Sequence[str] = LOCAL, seed: int = 0, scratch: Path | None = None
) -> EnginesReport:
    """Measure serving engines with an index of synthetic rows, which is deleted at the end.

    Args:
        to: ``qdrant-edge`` and ``lance`` in the folder of the run, or URLs of empty engines as of `open_engine`.
        scratch: where the folder of the run is made: 5 kB per row at 512 dimensions.

    Raises:
        CorpusError: too few rows to change and to filter.
        EngineError: an engine cannot be reached, fails, or is wrong about counts or answers.
    """
    if rows < 4 * CHANGED:
        raise CorpusError(f"Engines are measured with {4 * CHANGED:,} rows or more, not {rows:,}.")
    mixture = SphereMixture.of(rows, dim, seed=seed)
    captions, others = (mixture.captions(QUERIES + WARM, stream=CAPTIONS + number) for number in (0, 1))
    with PrivatePeak() as peak, tempfile.TemporaryDirectory(prefix="llm2clip-engines-", dir=scratch) as folder:
        place = Path(folder)
        engines = {name: open_engine(f"{name}:{place / name}" if name in LOCAL else name) for name in to}
        building = _write(place / "index", rows, mixture, others, seed)
        try:
            run = _Run(place, engines, captions, others)
            published = tuple(run.publish(name) for name in engines)
            answers = tuple(run.answers())
            run.change(seed)
            updated = tuple(run.publish(name) for name in engines)
            after = tuple(run.answers())
            for name in engines:
                run.check(name)
        finally:
            for engine in engines.values():
                engine.close()
        return EnginesReport(
            rows=rows,
            dim=dim,
            build_seconds=building,
            index_size=_size_of(place / "index"),
            published=published,
            answers=answers,
            updated=updated,
            answers_after=after,
            peak_gb=peak.bytes / 1e9,
        )


def _write(folder: Path, rows: int, mixture: SphereMixture, captions: np.ndarray, seed: int) -> float:
    """Write an index, and return the seconds of building its approximate one."""
    logger.info("writing %s rows", f"{rows:,}")
    with Writer.open(folder, model=ModelIdentity.from_name(f"synthetic, seed {seed}"), dim=mixture.dim) as writer:
        while (count := min(BLOCK, rows - writer.manifest.live)) > 0:
            made = [synthetic_row(number, seed) for number in writer.allocate(count)]
            writer.commit(made, mixture.draw(count, stream=1 + made[0].id))
            compact(writer)
        started = time.perf_counter()
        build_ann(writer, AnnConfig(seed=seed), captions=lambda _: captions)
        return time.perf_counter() - started


class _Run:
    def __init__(
        self, place: Path, engines: Mapping[str, ServingEngine], captions: np.ndarray, others: np.ndarray
    ) -> None:
        self._place, self._engines = place, engines
        self._captions, self._others = captions, others
        self._changed = self._deleted = np.empty(0, dtype=np.int64)

    def publish(self, name: str) -> Published:
        logger.info("publishing to %s", name)
        done = publish_index(self._place / "index", self._engines[name], captions=lambda _: self._others)
        return Published(
            system=name,
            added=done.added,
            changed=done.changed,
            deleted=done.deleted,
            seconds=done.seconds,
            sent_seconds=done.sent_seconds,
            size=_size_of(self._place / name) if name in LOCAL else None,
        )

    def answers(self) -> Iterator[Answers]:
        """Every system at every share, against exact search."""
        snapshot = Snapshot(self._place / "index")
        own, best = SearchIndex(snapshot), dict[str, np.ndarray]()
        systems: dict[str, SearchIndex | ServedIndex] = {"exact": own, "index": own}
        for name, engine in self._engines.items():
            systems |= {name: SearchIndex(snapshot, engine=engine), f"{name} alone": ServedIndex(engine)}
        for system, index in systems.items():
            query = replace(_ANY, recall=1.0 if system == "exact" else None)
            for share, where in CONDITIONS.items():
                logger.info("asking %s for %s", system, share)
                answered = self._asked(index, query, where)
                if system == "exact":
                    best[share] = answered.scores
                yield Answers(
                    system=system,
                    share=share,
                    recall=float((answered.scores >= best[share][:, -1:] - SAME_SCORE).mean()),
                    ms=statistics.median(answered.times),
                    p95_ms=float(np.quantile(answered.times, 0.95)),
                    condition_ms=statistics.median(answered.condition_times),
                    plan=answered.plan,
                )

    def _asked(self, index: SearchIndex | ServedIndex, query: Query, where: str | None) -> "_Answered":
        """Ask all captions one by one."""
        scores, times, condition_times, plan = [], [], [], ""
        for row in range(len(self._captions)):
            started = time.perf_counter()
            limited = index.limited(where, None, None)
            limited_at = time.perf_counter()
            planned = index.plan(query, K, limited)
            vectors = self._captions[row : row + 1]
            found, ids = index.candidates(vectors, K, planned, limited)
            if isinstance(index, ServedIndex):  # ranks them in a further step
                found, _ = rank_again(index.snapshot, vectors, ids, ids.shape[1])
            times.append(1000 * (time.perf_counter() - limited_at))
            condition_times.append(1000 * (limited_at - started))
            scores.append(found)
            effort = "" if planned.point is None else f", effort {planned.effort}"
            plan = f"{planned.strategy} on {planned.device}{effort}"
        kept = slice(WARM, None)
        return _Answered(
            scores=np.concatenate(scores)[kept], times=times[kept], condition_times=condition_times[kept], plan=plan
        )

    def change(self, seed: int) -> None:
        """Change the columns of some rows, and delete others."""
        before = Snapshot(self._place / "index").manifest
        with Writer.open(self._place / "index", model=before.model, dim=before.dim) as writer:
            live = writer.snapshot.live_ids
            drawn = np.random.default_rng(seed).choice(live, 2 * CHANGED, replace=False)
            self._changed, self._deleted = np.sort(drawn[:CHANGED]), np.sort(drawn[CHANGED:])
            rows = [replace(synthetic_row(number, seed), width=NEW_WIDTH) for number in self._changed.tolist()]
            vectors = writer.snapshot.vectors(self._changed.tolist())
            writer.commit(rows, vectors, removed=self._deleted)

    def check(self, name: str) -> None:
        """Compare what an engine holds after the second publish with what was changed.

        Raises:
            EngineError: a count or an answer is wrong.
        """
        snapshot, engine = Snapshot(self._place / "index"), self._engines[name]
        index = SearchIndex(snapshot, engine=engine)
        limited = index.limited(f"width = {NEW_WIDTH}", None, None)
        few = self._changed[:WARM]
        _, found = index.candidates(
            snapshot.vectors(few.tolist()).astype(np.float32), 1, index.plan(_ANY, 1, limited), limited
        )
        counts = engine.count(), len(limited or ()), len(engine.vectors(self._deleted)[0])
        if counts != (snapshot.manifest.live, CHANGED, 0):
            raise EngineError(
                f"{name} holds {counts[0]:,} rows, {counts[1]:,} with the new width and {counts[2]:,} that were"
                f" deleted, but should hold {snapshot.manifest.live:,}, {CHANGED:,} and 0."
            )
        if (share := float((found[:, 0] == few).mean())) < 1.0:
            raise EngineError(f"{name} finds {share:.0%} of the changed rows by their vectors.")


_ANY = Query(terms=(Term(kind="text", value="a caption"),))
"""Stands for the vectors that are asked."""


@dataclass(frozen=True, kw_only=True)
class _Answered:
    scores: np.ndarray
    """float32 ``[captions, K]``."""
    times: list[float]
    condition_times: list[float]
    plan: str


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
