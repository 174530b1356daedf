"""Processes that query one index while another one adds, deletes, compacts and rebuilds it.

``python -m llm2clip_search.benchmarks.perf.soak --readers 8 --seconds 120`` prints counts as one line of JSON. Whoever
writes records what each commit holds, and every answer is compared with that afterwards: all of its rows were live in
the commit that the reader had open, their scores are those of their vectors, and an exact search found the best ones.
Answers that one commit gave to one question, to whatever reader and whenever, are equal.
"""

import json
import multiprocessing
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.engine.search import SearchIndex
from llm2clip_search.indexers.ann import build_ann
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.store.compaction import compact
from llm2clip_search.vectorindex.policy import AnnConfig, AnnName

MODEL = ModelIdentity.from_name("soak")
MIXTURE = SphereMixture(dim=16, clusters=40)
QUERIES, K = 40, 10
NARROW = 40
"""Rows of a width below this meet the condition that half of the searches have; widths are ids modulo 100."""
REOPEN_AFTER = 20
"""Answers after which a reader opens the newest commit."""
LEAST_ROUNDS = 8
KINDS: tuple[AnnName, ...] = ("ivf", "ivfrabitq", "ivf", "hnsw")
TOLERANCE = 2e-3
"""Of a score to that of the vector that was added, which is stored as float16."""
ROUNDING = 1e-6
"""Of a score that float32 is summed for."""

Question = tuple[int, int, bool, bool]
"""Generation of the manifest, number of the query, whether there is a condition, and whether the search is exact."""
Answer = tuple[list[int], list[float]]
"""Ids and scores, best first."""


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """What came of readers and a writer."""

    readers: int
    seconds: float
    commits: int
    """Manifests that were published."""
    opened: int
    """Of these, those that some reader searched."""
    answers: int
    exact: int
    """Different questions to a commit that were answered by exact search."""
    approximate: int
    errors: int
    """Answers that ended with an error, and processes that died."""
    inconsistent: int
    """Answers that are not of the commit that was open, or not what it had answered before."""
    example: str
    """Of an error or an inconsistent answer; empty if there is none."""

    @property
    def is_good(self) -> bool:
        return not self.errors and not self.inconsistent

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def soak(folder: Path, *, readers: int, seconds: float) -> Soaked:
    """Let processes read an index in ``folder``, which must be empty, while another one writes it.

    Args:
        seconds: that the writer goes on for; it makes `LEAST_ROUNDS` rounds in any case.
    """
    index, log = folder / "index", folder / "log"
    log.mkdir()
    with Writer.open(index, model=MODEL, dim=MIXTURE.dim) as writer:
        _change(writer, log, 0, count=2000)
        build_ann(writer, AnnConfig(kind="ivfrabitq"))
        _prefer_approximate(writer)
    started, context = time.monotonic(), multiprocessing.get_context("spawn")
    ended = context.Event()
    processes = [
        context.Process(target=_read, args=(index, folder / f"reader-{number}", number, ended))
        for number in range(readers)
    ]
    for process in processes:
        process.start()
    writing = context.Process(target=_write, args=(index, log, seconds))
    writing.start()
    writing.join()
    ended.set()
    for process in processes:
        process.join()
    died = sum(process.exitcode != 0 for process in (*processes, writing))
    return _compared(
        [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("reader-*"))],
        _Recorded(log),
        died=died,
        readers=readers,
        seconds=time.monotonic() - started,
        commits=Snapshot(index).manifest.generation,
    )


def _write(index: Path, log: Path, seconds: float) -> None:
    until, round_ = time.monotonic() + seconds, 0
    while time.monotonic() < until or round_ < LEAST_ROUNDS:
        round_ += 1
        with Writer.open(index, model=MODEL, dim=MIXTURE.dim) as writer:
            _change(writer, log, round_, count=60, removed=40)
            compact(writer, everything=round_ % 3 == 0)
            build_ann(writer, AnnConfig(kind=KINDS[round_ % 4], tail_rows=50))
            _prefer_approximate(writer)


def _change(writer: Writer, log: Path, round_: int, *, count: int, removed: int = 0) -> None:
    """Add rows and remove others in one commit, and record what is live after it."""
    before, ids = writer.snapshot.live_ids, np.array(writer.allocate(count))
    dying = np.random.default_rng(round_).choice(before, removed, replace=False)
    vectors = MIXTURE.draw(count, stream=round_)
    rows = [
        Row(id=i, path=f"{i}.jpg", content_hash=str(i), size=i, mtime_ns=0, width=i % 100, height=1, format="PNG")
        for i in ids.tolist()
    ]
    writer.commit(rows, vectors, removed=dying.tolist())
    live = np.concatenate([np.setdiff1d(before, dying), ids])
    np.savez(log / f"{writer.manifest.generation:08d}.npz", live=live, ids=ids, vectors=vectors)


def _prefer_approximate(writer: Writer) -> None:
    """Say that exact search is slow: in an index this small it is faster than any other."""
    entry, config = writer.manifest.ann, writer.manifest.ann_config
    assert entry is not None, "an index of this size was asked for"
    assert config is not None
    writer.set_ann(replace(entry, exact_ms=1e9, filtered_ms=1e9), config)


def _read(index: Path, out: Path, seed: int, ended: Event) -> None:
    """Ask at random until the writer has ended, and write down what was answered."""
    generator, queries = np.random.default_rng(seed), MIXTURE.captions(QUERIES, stream=0)
    answers: dict[Question, Answer] = {}
    given, changed, errors = 0, list[str](), list[str]()
    searched: SearchIndex | None = None
    narrow = np.empty(0, dtype=np.int64)
    while not ended.is_set() or not given:
        try:
            if searched is None or given % REOPEN_AFTER == 0:
                searched = SearchIndex(Snapshot(index))
                narrow = searched.filter.ids(f"width < {NARROW}")
            number, is_filtered = int(generator.integers(QUERIES)), bool(generator.integers(2))
            recall = 1.0 if generator.integers(2) else None
            allowed = narrow if is_filtered else None
            plan = searched.plan_for(K, allowed=allowed, recall=recall)
            scores, ids = searched.search(queries[number : number + 1], k=K, allowed=allowed, recall=recall)
            question = (searched.snapshot.manifest.generation, number, is_filtered, plan.point is None)
            answer = (ids[0].tolist(), scores[0].tolist())
            if reason := _changed(question, answers.setdefault(question, answer), answer):
                changed.append(reason)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        given += 1
    written = {"given": given, "answers": list(answers.items()), "changed": changed, "errors": errors}
    out.write_text(json.dumps(written), encoding="utf-8")


def _changed(question: Question, one: Answer, other: Answer) -> str:
    """How two answers to a question differ; empty if they do not."""
    # Sums of float32 depend on where rows lie in memory, in their last bits.
    is_same = one[0] == other[0] and np.allclose(one[1], other[1], rtol=0, atol=ROUNDING)
    return "" if is_same else f"{question} was answered {one} and {other}"


class _Recorded:
    """What the writer recorded of its commits."""

    def __init__(self, log: Path) -> None:
        self._live: dict[int, np.ndarray] = {}
        vectors: dict[int, np.ndarray] = {}
        for path in sorted(log.iterdir()):
            with np.load(path) as read:
                self._live[int(path.stem)] = read["live"]
                vectors |= dict(zip(read["ids"].tolist(), read["vectors"], strict=True))
        self._vectors = np.array([vectors[number] for number in range(len(vectors))])
        self._scores = self._vectors @ MIXTURE.captions(QUERIES, stream=0).T

    def problem(self, question: Question, answer: Answer) -> str:
        """Why a commit cannot have given an answer; empty if it can."""
        generation, number, is_filtered, is_exact = question
        # Compacting and building change what is published, but not what is live.
        live = self._live[max(each for each in self._live if each <= generation)]
        live = live[live % 100 < NARROW] if is_filtered else live
        ids, scores = answer
        if gone := set(ids) - set(live.tolist()):
            return f"{question} found rows {sorted(gone)}, which it does not hold"
        if len(ids) != min(K, len(live)) or len(set(ids)) != len(ids):
            return f"{question} found {ids}"
        own = self._scores[ids, number]
        if np.abs(own - scores).max() > TOLERANCE:
            return f"{question} has scores {scores} for {ids}, whose vectors give {own.tolist()}"
        best = np.sort(self._scores[live, number])[::-1][: len(ids)]
        if is_exact and np.abs(best - own).max() > TOLERANCE:
            return f"{question} found {ids}, but others are nearer"
        return ""


def _compared(read: list[dict[str, Any]], recorded: _Recorded, *, died: int, **counts: Any) -> Soaked:
    problems, errors = list[str](), [f"{died} processes died"] * died
    first: dict[Question, Answer] = {}
    for reader in read:
        problems += reader["changed"]
        errors += reader["errors"]
        for words, (ids, scores) in reader["answers"]:
            question, answer = tuple(words), (ids, scores)
            reason = _changed(question, first.setdefault(question, answer), answer)
            if reason := reason or recorded.problem(question, answer):
                problems.append(reason)
    exact = sum(is_exact for *_, is_exact in first)
    return Soaked(
        opened=len({generation for generation, *_ in first}),
        answers=sum(reader["given"] for reader in read),
        exact=exact,
        approximate=len(first) - exact,
        errors=len(errors),
        inconsistent=len(problems),
        example=next(iter(errors + problems), ""),
        **counts,
    )


def main(
    readers: Annotated[int, typer.Option(help="Processes that search.")] = 8,
    seconds: Annotated[float, typer.Option(help="Time that the writer goes on for.")] = 120,
) -> None:
    """Search an index that is written meanwhile, and print counts as JSON. Exits with code 1 if an answer is wrong."""
    with tempfile.TemporaryDirectory(prefix="llm2clip-soak-") as folder:
        soaked = soak(Path(folder), readers=readers, seconds=seconds)
    typer.echo(json.dumps(soaked.to_dict()))
    raise typer.Exit(0 if soaked.is_good else 1)


if __name__ == "__main__":
    typer.run(main)
