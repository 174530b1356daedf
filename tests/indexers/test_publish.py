"""An index is copied to serving engines, kept in step, and checked; a publish may be killed at any instant."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llm2clip_search.errors import EngineError, InputError, StoreError
from llm2clip_search.indexers import PublishSummary, publish, publish_index, published_rows
from llm2clip_search.store import Snapshot, Writer
from llm2clip_search.store.compaction import compact
from llm2clip_search.vectorindex.serving.engine import RowBatch, ServingEngine
from llm2clip_search.vectorindex.serving.lance import LanceEngine
from llm2clip_search.vectorindex.serving.qdrant_edge import QdrantEdgeEngine
from tests.support.serving import DIM, MODEL, commit, engine_of, rows_of, vectors_of


@pytest.fixture(params=["memory", "edge", "lance", "server"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServingEngine]:
    made = engine_of(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def memory(tmp_path: Path) -> ServingEngine:
    """The engine that starts fastest, for what does not depend on which it is."""
    return engine_of("memory", tmp_path)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of two shards."""
    commit(tmp_path / "photos", range(60))
    return commit(tmp_path / "photos", range(60, 90))


def changes(summary: PublishSummary) -> tuple[int, int, int]:
    return summary.added, summary.changed, summary.deleted


def check_in_step(index: Path, engine: ServingEngine) -> None:
    """Every vector and every column is that of the index."""
    snapshot = Snapshot(index)
    ids, vectors = engine.vectors(snapshot.live_ids)
    assert ids.tolist() == snapshot.live_ids.tolist()
    assert engine.count() == len(ids)
    assert np.array_equal(vectors, snapshot.vectors(ids.tolist()))
    held = engine.rows(ids.tolist(), snapshot.schema)
    for row in snapshot.rows(ids.tolist()):
        expected = {**row, "path": snapshot.located(row["path"]), "described": None}
        assert _rounded(held[row["id"]]) == _rounded(expected)
    state = engine.state()
    assert state is not None
    assert state.is_complete
    assert (state.generation, state.rows) == (snapshot.manifest.generation, len(ids))


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Qdrant does not read the last bits of floats back exactly."""
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in row.items()}


def test_all_rows_are_published_once(index: Path, engine: ServingEngine) -> None:
    seen: list[tuple[str, int, int]] = []
    summary = publish_index(index, engine, progress=lambda task, done, total, _: seen.append((task, done, total)))
    assert changes(summary) == (90, 0, 0)
    assert summary.checked == 90
    check_in_step(index, engine)
    assert ("rows", 90, 90) in seen
    assert seen[-1][0] == "measurements"
    assert seen[-1][1] == seen[-1][2]
    assert changes(publish_index(index, engine)) == (0, 0, 0)


def test_recall_is_measured_and_stored(index: Path, memory: ServingEngine) -> None:
    asked: list[int] = []

    def captions(count: int) -> np.ndarray:
        asked.append(count)
        return vectors_of(range(1000, 1000 + count))

    measured = publish_index(index, memory, captions=captions).measured
    state = memory.state()
    assert measured is not None
    assert state is not None
    assert state.measured == measured
    assert measured.queries == "captions"
    assert asked
    assert {point.share for point in measured.points} == {1.0}  # a tenth would be fewer than ten rows
    assert all(point.recall == 1.0 for point in measured.points)
    assert publish_index(index, memory).measured == measured  # nothing was sent, so nothing is measured again
    assert len(asked) == 1


def test_new_changed_and_deleted_rows_are_brought_over(index: Path, engine: ServingEngine) -> None:
    publish_index(index, engine)
    commit(index.parent, [3, 7], camera="New", width=9)
    commit(index.parent, range(90, 95), removed=[10, 11, 70])
    assert changes(publish_index(index, engine, dry_run=True)) == (5, 2, 3)
    assert changes(publish_index(index, engine)) == (5, 2, 3)
    check_in_step(index, engine)


def test_compaction_sends_nothing(index: Path, engine: ServingEngine) -> None:
    publish_index(index, engine)
    commit(index.parent, [3], camera="New")
    commit(index.parent, [90], removed=[10])
    with Writer.open(index, model=MODEL, dim=DIM) as writer:
        compact(writer, everything=True)
    assert len(Snapshot(index).shards) == 1
    # Nothing on disk says any more that row 10 was there.
    assert changes(publish_index(index, engine)) == (1, 1, 1)
    check_in_step(index, engine)
    with Writer.open(index, model=MODEL, dim=DIM) as writer:
        compact(writer, everything=True)
    assert changes(publish_index(index, engine)) == (0, 0, 0)


def test_rows_that_somebody_deleted_from_the_engine_are_sent_again(index: Path, memory: ServingEngine) -> None:
    publish_index(index, memory)
    memory.delete(np.array([5, 6]))
    assert changes(publish_index(index, memory)) == (2, 0, 0)
    check_in_step(index, memory)


def test_a_dead_row_goes_though_the_engine_lacks_a_live_one(index: Path, engine: ServingEngine) -> None:
    publish_index(index, engine)
    engine.delete(np.array([7]))
    commit(index.parent, [], removed=[9])  # so that both have as many rows
    assert changes(publish_index(index, engine)) == (1, 0, 1)
    check_in_step(index, engine)


def test_an_index_that_was_moved_has_other_paths(index: Path, memory: ServingEngine, tmp_path: Path) -> None:
    publish_index(index, memory)
    moved = tmp_path / "elsewhere"
    shutil.move(index.parent, moved)
    summary = publish_index(moved, memory)
    assert changes(summary) == (0, 90, 0)
    check_in_step(moved / ".llm2clip", memory)


def test_new_columns_come_over(index: Path, engine: ServingEngine) -> None:
    publish_index(index, engine)
    columns = pa.table({"licence.url": ["a", None], "score": pa.array([1.5, float("nan")], pa.float32())})
    with Writer.open(index, model=MODEL, dim=DIM) as writer:
        writer.commit(rows_of([90, 91]), vectors_of([90, 91]), columns=columns)
    assert changes(publish_index(index, engine)) == (2, 0, 0)
    held = engine.rows([90, 91, 3], Snapshot(index).schema)
    assert held[90]["licence.url"] == "a"
    assert held[90]["score"] == 1.5
    assert np.isnan(held[91]["score"])
    assert held[3]["licence.url"] is None


def test_an_index_without_rows_is_published(tmp_path: Path, memory: ServingEngine) -> None:
    index = commit(tmp_path / "empty", [0])
    commit(tmp_path / "empty", [], removed=[0])
    assert changes(publish_index(index, memory)) == (0, 0, 0)
    assert memory.count() == 0
    commit(tmp_path / "empty", [1])
    assert changes(publish_index(index, memory)) == (1, 0, 0)
    commit(tmp_path / "empty", [], removed=[1])
    assert changes(publish_index(index, memory)) == (0, 0, 1)


def test_a_manipulated_vector_is_found(index: Path, engine: ServingEngine) -> None:
    publish_index(index, engine)
    _replace(engine, Snapshot(index), 42, vector=vectors_of([1])[0])
    with pytest.raises(EngineError, match=r"vector of id 42 in .* differs from the index's"):
        publish_index(index, engine)


def test_manipulated_columns_are_found(index: Path, memory: ServingEngine) -> None:
    publish_index(index, memory)
    _replace(memory, Snapshot(index), 42, camera="Forged")
    with pytest.raises(EngineError, match=r"columns of id 42 in .* differ from the index's"):
        publish_index(index, memory)


def _replace(engine: ServingEngine, snapshot: Snapshot, identifier: int, **other: Any) -> None:
    """Somebody writes to the collection by other means."""
    held = engine.rows([identifier], snapshot.schema)[identifier]
    vector = other.pop("vector", snapshot.vectors([identifier])[0])
    row = {name: value for name, value in {**held, **other}.items() if name != "described"}
    schema = pa.schema([field for field in snapshot.schema if field.name != "described"])
    engine.delete(np.array([identifier]))
    engine.add(RowBatch(pa.Table.from_pylist([row], schema=schema)), vector[None].astype(np.float16))


def test_another_index_is_refused_before_anything_is_sent(index: Path, memory: ServingEngine, tmp_path: Path) -> None:
    publish_index(index, memory)
    other = commit(tmp_path / "others", range(5))
    with pytest.raises(EngineError, match=r"holds another index, that of .*photos"):
        publish_index(other, memory)
    check_in_step(index, memory)


def test_a_copy_that_has_gone_its_own_way_is_refused(index: Path, memory: ServingEngine, tmp_path: Path) -> None:
    publish_index(index, memory)
    shutil.copytree(index.parent, tmp_path / "copy")
    commit(tmp_path / "copy", range(90, 95))
    with Writer.open(index, model=MODEL, dim=DIM) as writer:
        writer.commit(rows_of([90]), vectors_of([1090]))
    publish_index(index, memory)
    with pytest.raises(EngineError, match="vector of id 90"):
        publish_index(tmp_path / "copy", memory)


def test_an_older_copy_is_refused(index: Path, memory: ServingEngine, tmp_path: Path) -> None:
    publish_index(index, memory)
    shutil.copytree(index.parent, tmp_path / "backup")
    commit(index.parent, [90])
    publish_index(index, memory)
    with pytest.raises(EngineError, match="older copy"):
        publish_index(tmp_path / "backup", memory)


def test_another_model_is_refused(index: Path, memory: ServingEngine, tmp_path: Path) -> None:
    publish_index(index, memory)
    other = tmp_path / "other" / ".llm2clip"
    with Writer.open(other, model=type(MODEL).from_name("another"), dim=DIM) as writer:
        writer.commit(rows_of([1]), vectors_of([1]))
    with pytest.raises(EngineError, match=r"holds vectors of colours:16 .* was made by another"):
        publish_index(other, memory)


def test_what_is_no_index_or_no_engine_is_refused(index: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no index"):
        publish_index(tmp_path / "nothing", f"lance:{tmp_path / 'l'}")
    for url, reason in (
        ("milvus:http://localhost", "is not the URL of a serving engine"),
        ("qdrant:localhost:6333", "is not the URL of a serving engine"),
        ("qdrant:http://localhost:x/photos", "is not the URL of a serving engine"),
        ("lance:", "is not the URL of a serving engine"),
        ("qdrant:http://me:secret@host/photos", "holds a password"),
        ("qdrant:http://host/photos?api-key=secret", "holds a password"),
        ("qdrant:http://host/two words", "cannot be the name of a collection"),
    ):
        with pytest.raises(InputError, match=reason) as raised:
            publish_index(index, url)
        assert "secret" not in f"{raised.value} {raised.value.hint}"
    with pytest.raises(EngineError, match=r"cannot be reached: .*refused"):
        publish_index(index, "qdrant:http://127.0.0.1:1")


def test_an_error_in_the_middle_says_how_to_go_on(index: Path, memory: ServingEngine) -> None:
    class Broken:
        """Loses its connection after the first shard."""

        def __getattr__(self, name: str) -> Any:
            return getattr(memory, name)

        def add(self, rows: RowBatch, vectors: np.ndarray) -> None:
            if memory.count():
                raise EngineError("The connection is lost.")
            memory.add(rows, vectors)

    broken: Any = Broken()
    with pytest.raises(EngineError, match=r"^The connection is lost\. 60 rows were sent before\.$") as raised:
        publish_index(index, broken)
    assert "again" in raised.value.hint
    assert changes(publish_index(index, memory)) == (30, 0, 0)
    check_in_step(index, memory)


_KILLED = """
import os, signal, sys
from llm2clip_search.indexers import published_rows, publish_index
from llm2clip_search.vectorindex.serving.lance import LanceEngine
from llm2clip_search.vectorindex.serving.qdrant_edge import QdrantEdgeEngine
from pathlib import Path
published_rows.BLOCK_ROWS = 20
kind, folder, index, method, calls, when = sys.argv[1:]
engine = QdrantEdgeEngine(Path(folder)) if kind == "edge" else LanceEngine(folder)
original, left = getattr(type(engine), method), int(calls)
def dying(self, *given, **named):
    global left
    left -= 1
    if not left and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(self, *given, **named)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(type(engine), method, dying)
publish_index(index, engine)
"""


INSTANTS = [
    ("edge", [("add", 3, "after"), ("delete", 1, "before")]),
    ("lance", [("add", 3, "after")]),
    *(
        pytest.param(
            kind,
            [("create", 1, "after"), ("add", 2, "before"), ("write_state", 2, "before"), ("delete", 1, "after")],
            marks=pytest.mark.slow,
        )
        for kind in ("edge", "lance")
    ),
]


@pytest.mark.parametrize(("kind", "instants"), INSTANTS)
def test_a_publish_that_was_killed_is_resumed(
    kind: str, instants: list[tuple[str, int, str]], index: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    for method, calls, when in instants:
        if method == "delete":
            commit(index.parent, [5], removed=[8], camera="New")
        arguments = [kind, str(folder), str(index), method, str(calls), when]
        child = subprocess.run(
            [sys.executable, "-c", _KILLED, *arguments], env=os.environ, capture_output=True, text=True, check=False
        )
        assert child.returncode == -signal.SIGKILL, child.stderr
    engine: ServingEngine = QdrantEdgeEngine(folder) if kind == "edge" else LanceEngine(str(folder))
    summary = publish_index(index, engine)
    assert summary.added <= 40  # what was sent before was not sent again
    check_in_step(index, engine)
    engine.close()


class _Stopped(BaseException):
    """The process ends here."""


class _Ending:
    """An engine whose process ends before or after one of the calls that change something."""

    def __init__(self, engine: ServingEngine, calls: int, *, after: bool) -> None:
        self._engine, self._left, self._after = engine, calls, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)
        if name not in ("create", "extend", "write_state", "add", "describe", "delete", "finish"):
            return method

        def called(*given: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._after:
                raise _Stopped
            result = method(*given, **named)
            if self._left < 0:
                raise _Stopped
            return result

        return called


@pytest.mark.parametrize("after", [False, True])
def test_a_publish_may_end_at_any_call(
    index: Path, memory: ServingEngine, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_rows, "BLOCK_ROWS", 25)
    monkeypatch.setattr(publish, "RECORDED_S", 0.0)
    ended = 0
    for calls in range(100):
        ending: Any = _Ending(memory, calls, after=after)
        if calls == 3:
            commit(index.parent, [3, 90], removed=[10], camera="New")
        try:
            publish_index(index, ending)
        except _Stopped:
            ended += 1
        else:
            break
    assert ended > 3
    assert changes(publish_index(index, memory)) == (0, 0, 0)
    check_in_step(index, memory)


def test_a_summary_is_json(index: Path, tmp_path: Path) -> None:
    summary = publish_index(index.parent, f"qdrant-edge:{tmp_path / 'e'}", dry_run=False)
    assert json.loads(json.dumps(summary.to_dict()))["added"] == 90
