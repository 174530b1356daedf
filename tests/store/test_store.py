"""The index on disk: commits that are whole or nothing, tombstones, one writer, many readers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.base.files import file_sha256
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.engine import SearchIndex
from llm2clip_search.engine.filter import Filter
from llm2clip_search.errors import StoreError
from llm2clip_search.indexers import build_ann
from llm2clip_search.store import (
    METADATA_SCHEMA,
    Manifest,
    Snapshot,
    SourceEntry,
    Writer,
    find_index,
    shard_files,
    verify_index,
)
from llm2clip_search.store import writer as writer_module
from llm2clip_search.store.compaction import compact
from llm2clip_search.store.manifest import AnnEntry, ShardEntry
from llm2clip_search.store.schema import Failure
from llm2clip_search.vectorindex.operating import OperatingPoint
from llm2clip_search.vectorindex.policy import AnnConfig
from tests.support.faults import PowerCutError, cut_power_at
from tests.support.stores import MODEL, check_intact, fill, live, row, vectors
from tests.support.vectors import DIM
from tests.support.vectors import MODEL as CLUSTERED_MODEL

FIXTURES = Path(__file__).parent / "fixtures"


texts = st.text(max_size=8)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2**20).map("{:06d}".format), st.integers(0, 2**40)), max_size=3),
    st.none() | st.floats(0, 1),
    st.lists(st.tuples(texts, st.lists(texts), st.booleans()), max_size=3),
)
def test_a_manifest_survives_its_file(
    shards: list[tuple[str, int]], recall: float | None, sources: list[tuple[str, list[str], bool]]
) -> None:
    import tempfile

    ann, config = None, None
    if recall:
        point = OperatingPoint(depth=10, effort=3, candidates=20, recall=recall, milliseconds=0.5)
        size = {"rows": 1, "trained_on": 1, "exact_ms": 2.5, "filtered_ms": 1.5}
        ann = AnnEntry(name="a", factory="f", shards=("x",), queries="captions", points=(point,), **size)  # type: ignore[arg-type]
        config = AnnConfig(kind="ivf", recall=0.5, memory=10**9)
    entries = tuple(
        ShardEntry(name=name, rows=rows, first_id=rows, last_id=2 * rows, relative=rows % 2 == 0, sha256={"f": name})
        for name, rows in shards
    )
    made_from = tuple(
        SourceEntry(uri=uri, exclude=tuple(exclude), everything=all_, mounts=(uri,)) for uri, exclude, all_ in sources
    )
    manifest = Manifest(
        model=MODEL, dim=4, shards=entries, ann=ann, ann_config=config, sources=made_from, base="/somewhere"
    )
    with tempfile.TemporaryDirectory() as folder:
        manifest.write(Path(folder))
        assert Manifest.read(Path(folder)) == manifest


def test_rows_and_vectors_come_back_by_id(tmp_path: Path) -> None:
    fill(tmp_path / "i", 0, 1, 2)
    fill(tmp_path / "i", 3, 7)
    snapshot = Snapshot(tmp_path / "i")
    np.testing.assert_array_equal(snapshot.vectors([7, 0, 2]), vectors(7, 0, 2))
    assert [r["path"] for r in snapshot.rows([3, 1])] == ["3.jpg", "1.jpg"]
    assert snapshot.live_ids.tolist() == [0, 1, 2, 3, 7]
    assert (snapshot.manifest.live, snapshot.manifest.next_id) == (5, 8)
    check_intact(snapshot)
    with pytest.raises(StoreError, match="id 9"):
        snapshot.vectors([9])


def test_removed_and_superseded_rows_do_not_count(tmp_path: Path) -> None:
    """A renamed row stands in a later shard under its old id; a removed id is never given again."""
    folder = tmp_path / "i"
    fill(folder, 0, 1, 2)
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        writer.commit([row(1, "new.jpg")], vectors(1), removed=[2])
        assert list(writer.allocate(2)) == [3, 4]
    assert live(folder) == {0: "0.jpg", 1: "new.jpg"}
    manifest = Snapshot(folder).manifest
    assert (manifest.live, manifest.dead) == (2, 2)
    found = {int(i): v for ids, block in Snapshot(folder).blocks() for i, v in zip(ids, block, strict=True)}
    assert found.keys() == {0, 1}


@pytest.mark.parametrize("step", ["fsync_path", "replace_file", "file_sha256"])
@pytest.mark.parametrize("call", [0, 1, 2, 3, 4, 5])
def test_a_commit_that_breaks_off_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    """Whatever step fails, at whichever of its calls, the index is what it was, or all of the commit."""
    folder = tmp_path / "i"
    fill(folder, 0, 1)
    module = writer_module if step == "replace_file" else shard_files
    real, calls = getattr(module, step), [0]

    def broken(*args: object) -> object:
        calls[0] += 1
        if calls[0] > call:
            raise OSError("power is out")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, step, broken)
        try:
            with Writer.open(folder, model=MODEL, dim=4) as writer:
                writer.commit([row(1, "moved.jpg"), row(2)], vectors(1, 2), removed=[0])
            done = True
        except StoreError:
            done = False
    before, after = {0: "0.jpg", 1: "1.jpg"}, {1: "moved.jpg", 2: "2.jpg"}
    assert live(folder) == (after if done else before)
    check_intact(Snapshot(folder))
    fill(folder, 9)
    assert live(folder) == (after if done else before) | {9: "9.jpg"}
    named = {entry.name for entry in Snapshot(folder).manifest.shards}
    assert {path.name for path in (folder / "shards").iterdir()} == named


def test_kill_9_loses_at_most_the_shard_in_flight(tmp_path: Path) -> None:
    """A real writer, killed while it commits in a loop, again and again."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.store.test_store import Writer
from tests.support.stores import MODEL, row, vectors
with Writer.open(Path({str(tmp_path / "i")!r}), model=MODEL, dim=4) as writer:
    while True:
        new = list(writer.allocate(3))
        writer.commit([row(i) for i in new], vectors(*new), removed=new[:1] if new[0] == 0 else [new[0] - 3])
        print(writer.manifest.generation, flush=True)
"""
    for pause in (0.05, 0.11, 0.17):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        committed = int(process.stdout.readline())
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        committed = max([committed, *map(int, process.stdout.read().split())])
        snapshot = Snapshot(tmp_path / "i")
        assert snapshot.manifest.generation >= committed
        check_intact(snapshot)
        assert snapshot.metadata().num_rows == snapshot.manifest.live == len(snapshot.live_ids)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        Writer.open(tmp_path / "i", model=MODEL, dim=4),
        pytest.raises(StoreError, match=f"process {os.getpid()} on"),
        Writer.open(tmp_path / "i", model=MODEL, dim=4),
    ):
        pass
    fill(tmp_path / "i", 0)  # the lock is free again


def test_a_reader_keeps_its_snapshot(tmp_path: Path) -> None:
    """Two later writers, one of which sweeps, do not disturb it."""
    folder = tmp_path / "i"
    fill(folder, 0, 1)
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        writer.commit(removed=[0])
    reader = Snapshot(folder)
    for extra in (2, 3):
        with Writer.open(folder, model=MODEL, dim=4) as writer:
            writer.commit([row(extra)], vectors(extra), removed=[1])
    assert reader.live_ids.tolist() == [1]
    assert [r["path"] for r in reader.rows([1])] == ["1.jpg"]


def test_failures_are_kept_by_corpus(tmp_path: Path) -> None:

    folder = tmp_path / "i"
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        writer.record_failures([Failure(path="a/x.jpg", stage="decode", reason="r")], under="a")
        writer.record_failures([Failure(path="b/y.jpg", stage="header", reason="r")], under="b")
        writer.record_failures([], under="a")
        assert writer.manifest.failures == 1
    assert [r["path"] for r in pq.read_table(folder / "failures.parquet").to_pylist()] == ["b/y.jpg"]


def test_what_cannot_be_opened_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    with pytest.raises(StoreError, match="holds no index"):
        Snapshot(folder)
    fill(folder, 0, 1)
    other = ModelIdentity(name="another", revision="r", weights_sha256="x", preprocess_sha256="p")
    with pytest.raises(StoreError, match=r"made by m .* not by another"), Writer.open(folder, model=other, dim=4):
        pass
    text = (folder / "manifest.json").read_text()
    for damage, message in (
        ('{"schema_version": 99}', "schema version 99, newer than 5"),
        (text[: len(text) // 2], "cannot be read"),
        ("[]", "not the manifest"),
        (text.replace('"dim": 4', '"dim": 5'), "differs from its own checksum"),
        (json.dumps({**json.loads(text), "surprise": 1}), "differs from its own checksum"),
    ):
        (folder / "manifest.json").write_text(damage)
        with pytest.raises(StoreError, match=message):
            Snapshot(folder)
    (folder / "manifest.json").write_text(text)
    np.save(folder / "shards" / "000001" / "embeddings.npy", np.zeros((1, 4), dtype=np.float16))
    with pytest.raises(StoreError, match=r"embeddings\.npy differs from what was committed"):
        Snapshot(folder).vectors([0])
    assert [(file.path, file.images) for file in verify_index(folder).damaged] == [("shards/000001/embeddings.npy", 2)]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    with pytest.raises(StoreError, match=r"thesis\.doc"), Writer.open(tmp_path / "full", model=MODEL, dim=4):
        pass


def test_the_index_is_found_upward(tmp_path: Path) -> None:
    fill(tmp_path / ".llm2clip", 0)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_index(below) == tmp_path / ".llm2clip"
    with pytest.raises(StoreError, match="no index in /"):
        find_index(Path("/"))


@pytest.fixture
def schema_1(tmp_path: Path) -> Path:
    """An index of schema 1, written by the version that had it; never to be written again."""
    shutil.copytree(FIXTURES / "v1", tmp_path / "v1")
    return tmp_path / "v1"


def test_schema_1_opens_for_ever(schema_1: Path) -> None:
    snapshot = Snapshot(schema_1)
    check_intact(snapshot)
    assert snapshot.manifest.model == MODEL
    assert live(schema_1) == {0: "0.jpg", 1: "sub/renamed.jpg"}
    np.testing.assert_array_equal(snapshot.vectors([0, 1]), vectors(0, 1))
    assert [row["corpus"] for row in snapshot.rows([0, 1])] == [None, None]
    assert Filter(snapshot).ids("width > 0 AND corpus IS NULL").tolist() == [0, 1]
    assert json.loads((schema_1 / "manifest.json").read_text())["schema_version"] == 1  # a reader writes nothing


def test_schema_1_is_migrated_by_the_next_commit(schema_1: Path) -> None:
    """Rows of both schemas stand side by side, are filtered and merged."""
    with Writer.open(schema_1, model=MODEL, dim=4) as writer:
        assert [(entry.first_id, entry.last_id) for entry in writer.manifest.shards] == [(0, 2), (1, 1)]
        writer.commit([replace(row(3), corpus="photos", version="7")], vectors(3))
    assert json.loads((schema_1 / "manifest.json").read_text())["schema_version"] == 5
    snapshot = Snapshot(schema_1)
    check_intact(snapshot)
    assert live(schema_1) == {0: "0.jpg", 1: "sub/renamed.jpg", 3: "3.jpg"}
    assert Filter(snapshot).ids("corpus IS NULL OR corpus = 'photos'").tolist() == [0, 1, 3]
    assert Filter(snapshot).ids("corpus = 'photos' AND path LIKE '%/3.jpg'").tolist() == [3]
    with Writer.open(schema_1, model=MODEL, dim=4) as writer:
        compact(writer, everything=True)
    assert [r["corpus"] for r in Snapshot(schema_1).rows([0, 1, 3])] == [None, None, "photos"]
    np.testing.assert_array_equal(Snapshot(schema_1).vectors([3, 0, 1]), vectors(3, 0, 1))


@pytest.mark.parametrize(("kind", "factory"), [("hnsw", "IDMap2,HNSW32,Flat"), ("ivf", "IVF3,SQfp16")])
def test_schema_2_opens_for_ever(tmp_path: Path, kind: str, factory: str) -> None:
    """Its approximate index is searched as it is, and built again by the next run."""
    shutil.copytree(FIXTURES / f"v2-{kind}", tmp_path / "v2")
    snapshot = Snapshot(tmp_path / "v2")
    check_intact(snapshot)
    assert snapshot.manifest.ann is not None
    assert (snapshot.manifest.ann.factory, snapshot.manifest.ann_config) == (factory, None)
    assert [(point.depth, point.recall) for point in snapshot.manifest.ann.points] == [(10, 1.0)]
    vectors = snapshot.vectors(snapshot.live_ids.tolist())
    assert snapshot.manifest.live == 119
    with Writer.open(tmp_path / "v2", model=CLUSTERED_MODEL, dim=DIM) as writer:
        writer.set_ann(replace(snapshot.manifest.ann, exact_ms=1e9), AnnConfig())
    index = SearchIndex(Snapshot(tmp_path / "v2"))
    _, found = index.search(vectors, k=1)
    assert found[:, 0].tolist() == snapshot.live_ids.tolist()
    with Writer.open(tmp_path / "v2", model=CLUSTERED_MODEL, dim=DIM) as writer:
        entry = build_ann(writer, AnnConfig(kind="ivf"))
    assert entry is not None
    assert (entry.factory, entry.sha256 is not None) == ("IVF2,SQfp16", True)


@pytest.mark.parametrize("late", [False, True])
def test_a_power_cut_while_schema_1_is_migrated_leaves_one_of_both(
    schema_1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    before = {0: "0.jpg", 1: "sub/renamed.jpg"}
    for step in range(100):
        folder = tmp_path / str(step)
        shutil.copytree(schema_1, folder)
        with monkeypatch.context() as patch:
            cut_power_at(patch, step, late=late)
            try:
                fill(folder, 3)
                break
            except PowerCutError:
                pass
        assert live(folder) in (before, before | {3: "3.jpg"})
        check_intact(Snapshot(folder))
    assert step > 8
    assert live(folder) == before | {3: "3.jpg"}


def test_a_shard_of_schema_1_without_statistics_may_hold_any_id(schema_1: Path) -> None:
    path = schema_1 / "shards" / "000001" / "metadata.parquet"
    pq.write_table(pq.read_table(path), path, write_statistics=False)
    manifest = json.loads((schema_1 / "manifest.json").read_text())
    manifest["shards"][0]["sha256"]["metadata.parquet"] = file_sha256(path)
    (schema_1 / "manifest.json").write_text(json.dumps(manifest))
    snapshot = Snapshot(schema_1)
    assert (snapshot.manifest.shards[0].first_id, snapshot.manifest.shards[0].last_id) == (0, 2)
    assert live(schema_1) == {0: "0.jpg", 1: "sub/renamed.jpg"}


def test_a_table_is_appended_as_it_is(tmp_path: Path) -> None:
    """Rows of another index: half-precision vectors keep their bits, in blocks, and further columns are known."""
    fill(tmp_path / "a", 0, 1, 2)
    source = Snapshot(tmp_path / "a")
    table = source.metadata().cast(METADATA_SCHEMA)
    halves = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float16)
    with Writer.open(tmp_path / "b", model=MODEL, dim=4) as writer:
        writer.commit([row(0)], vectors(0))
        moved = table.set_column(0, "id", pa.array(writer.allocate(3), pa.int64()))
        writer.append(moved.append_column("stars", pa.array([1, 2, None])), [halves[:2], halves[2:]])
        assert (writer.manifest.next_id, writer.manifest.live) == (4, 4)
        with pytest.raises(StoreError, match="Column 'stars' is string here, but int64 in the index"):
            writer.append(moved.append_column("stars", pa.array(["x", "y", "z"])), [halves])
    snapshot = Snapshot(tmp_path / "b")
    check_intact(snapshot)
    assert snapshot.shards[1].vectors.tobytes() == halves.tobytes()
    assert snapshot.metadata().column("stars").to_pylist() == [None, 1, 2, None]
    assert live(tmp_path / "b") == {0: "0.jpg", 1: "0.jpg", 2: "1.jpg", 3: "2.jpg"}
