"""Merged indices: the rows of all, bit by bit, wherever the new index lies, and whatever interrupts it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search import AnnConfig, index_folder, merge_indices, open_index
from llm2clip_search.engine.filter import Filter
from llm2clip_search.errors import StoreError
from llm2clip_search.store import Snapshot, SourceEntry, Writer
from llm2clip_search.store.manifest import UNFINISHED
from llm2clip_search.store.schema import Failure
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.stores import MODEL, check_intact, fill, row, vectors
from tests.support.vectors import DIM, add, clustered


def by_uri(folder: Path) -> dict[str, tuple[bytes, dict[str, object]]]:
    """Of every live row: where it is, the bits of its vector, and what else its metadata says."""
    snapshot = Snapshot(folder)
    found = {}
    for shard in snapshot.shards:
        table = shard.metadata(snapshot.schema).to_pylist()
        for each, at in zip(table, shard.live_rows.tolist(), strict=True):
            rest = {name: value for name, value in each.items() if name not in ("id", "path") and value is not None}
            rest["corpus"] = snapshot.located(each["corpus"]) if each["corpus"] else None
            found[snapshot.located(each["path"])] = shard.vectors[at].tobytes(), rest
    return found


@settings(max_examples=25, deadline=None)
@given(
    shards=st.lists(st.lists(st.integers(1, 12), max_size=3), min_size=1, max_size=3),
    rows_per_commit=st.integers(1, 20),
    removed=st.sets(st.integers(0, 15), max_size=6),
    places=st.lists(st.sampled_from(["x/a", "x/b", "y/c", "d"]), min_size=4, max_size=4, unique=True),
)
def test_any_indices_are_merged_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[list[int]],
    rows_per_commit: int,
    removed: set[int],
    places: list[str],
) -> None:
    """With deleted rows, empty indices, the same paths where two indices lie in one folder, and any place."""
    root = tmp_path_factory.mktemp("merge")
    folders = [root / place for place in places]
    for number, sizes in enumerate(shards):
        with Writer.open(folders[number], model=MODEL, dim=DIM) as writer:
            for size in sizes:
                add(writer, clustered(number, size))
            writer.commit(removed=removed)
    expected: dict[str, object] = {}
    count = 0
    for folder in folders[: len(shards)]:
        own = by_uri(folder)
        count += len(own)
        expected = {**own, **expected}  # the first one named wins
    summary = merge_indices(folders[3], folders[: len(shards)], rows_per_commit=rows_per_commit)
    assert by_uri(folders[3]) == expected
    merged = Snapshot(folders[3])
    check_intact(merged)
    assert summary.total == merged.manifest.live == len(expected)
    assert summary.skipped == count - len(expected)
    assert merged.live_ids.tolist() == list(range(len(expected)))
    assert [entry.rows for entry in merged.manifest.shards[:-1]] == [rows_per_commit] * (len(merged.shards) - 1)
    assert not (folders[3] / UNFINISHED).exists()


def test_a_merged_index_is_brought_up_to_date_like_any_other(tmp_path: Path, colours: ColourEncoder) -> None:
    """Nothing is embedded again, wherever the index lies: paths, corpora, times and versions are those of the files."""
    for name in "ab":
        (tmp_path / name / "images").mkdir(parents=True)
        for number in range(4):
            photograph(number + 10 * (name == "b")).save(tmp_path / name / "images" / f"{number}.png")
        (tmp_path / name / "images" / "broken.png").write_bytes(b"x")
        index_folder(tmp_path / name / "images", encoder=colours, index=tmp_path / name / ".llm2clip")
    # An index whose corpus is the folder that holds it.
    photograph(77).save(tmp_path / "a" / "top.png")
    index_folder(tmp_path / "b", encoder=colours, index=tmp_path / "b" / ".llm2clip")
    for out in (tmp_path / ".llm2clip", tmp_path / "a" / "merged", tmp_path / "elsewhere" / "deep" / "merged"):
        sources = [tmp_path / name / ".llm2clip" for name in "ab"]
        summary = merge_indices(out, sources)
        assert (summary.total, summary.skipped, summary.failures) == (8, 0, 2)
        merged = Snapshot(out)
        assert [merged.located(source.uri) for source in merged.manifest.sources] == [
            str(tmp_path / "a" / "images"),
            str(tmp_path / "b" / "images"),
            str(tmp_path / "b"),
        ]
        before = colours.embedded
        for name in "ab":
            again = index_folder(tmp_path / name / "images", encoder=colours, index=out)
            assert (again.unchanged, again.indexed, again.removed, again.failed, again.total) == (4, 0, 0, 1, 8)
        assert colours.embedded == before
        hits = open_index(out, encoder=colours).query(image=tmp_path / "b" / "images" / "2.png", k=1).hits
        assert hits[0].path == tmp_path / "b" / "images" / "2.png"


def test_paths_of_indices_that_were_copied_alone_lead_to_their_images(tmp_path: Path, colours: ColourEncoder) -> None:
    """Two of them lie in one folder then, and different images would have the same paths there."""
    images = [tmp_path / "c" / name / f"{number}.png" for name in "xy" for number in range(3)]
    for number, image in enumerate(images):
        image.parent.mkdir(parents=True, exist_ok=True)
        photograph(number).save(image)
    for name in "xy":
        (tmp_path / "c" / name / "broken.png").write_bytes(b"x")
        index_folder(tmp_path / "c" / name, encoder=colours, index=tmp_path / "c" / name / ".llm2clip")
        shutil.copytree(tmp_path / "c" / name / ".llm2clip", tmp_path / "backup" / name)
    for out in (tmp_path / "all" / ".llm2clip", tmp_path / "c" / "merged", tmp_path / "backup" / "merged"):
        summary = merge_indices(out, [tmp_path / "backup" / name for name in "xy"])
        assert (summary.total, summary.skipped, summary.failures) == (6, 0, 2)
        assert [Path(path) for path in by_uri(out)] == images
        merged = Snapshot(out)
        assert [merged.located(each.uri) for each in merged.manifest.sources] == [str(tmp_path / "c" / n) for n in "xy"]
        broken = {Path(merged.located(each["path"])) for each in merged.failures()}
        assert broken == {tmp_path / "c" / name / "broken.png" for name in "xy"}


def test_paths_of_an_index_that_moved_with_its_images_follow_it(tmp_path: Path, colours: ColourEncoder) -> None:
    (tmp_path / "old").mkdir()
    photograph(1).save(tmp_path / "old" / "1.png")
    index_folder(tmp_path / "old", encoder=colours, index=tmp_path / "old" / ".llm2clip")
    (tmp_path / "old").rename(tmp_path / "new")
    merge_indices(tmp_path / "out" / ".llm2clip", [tmp_path / "new" / ".llm2clip"])
    assert [*by_uri(tmp_path / "out" / ".llm2clip")] == [str(tmp_path / "new" / "1.png")]


@pytest.mark.skipif(os.name == "nt", reason="no folder has such a name")
def test_a_folder_may_be_named_like_a_drive(tmp_path: Path) -> None:
    with Writer.open(tmp_path / "a" / "i", model=MODEL, dim=4) as writer:
        writer.commit([row(0, "C:/1.png"), row(1, "/2.png")], vectors(0, 1), source=SourceEntry(uri="C:"))
    merge_indices(tmp_path / "out" / "i", [tmp_path / "a" / "i"])
    assert [*by_uri(tmp_path / "out" / "i")] == [str(tmp_path / "a" / "C:" / "1.png"), "/2.png"]
    snapshot = Snapshot(tmp_path / "a" / "i")
    assert snapshot.below(pa.chunked_array([["C:/1.png", "1.png"]]), "C:").tolist() == [True, False]
    assert Filter(snapshot).ids(f"path = '{tmp_path.as_posix()}/a/C:/1.png'").tolist() == [0]


def test_further_columns_are_kept(tmp_path: Path) -> None:
    for name, columns in (("a", {"stars": [1, 2]}), ("b", {"tags": [["x"], None]}), ("c", {})):
        with Writer.open(tmp_path / name / "i", model=MODEL, dim=4) as writer:
            writer.commit([row(0), row(1)], vectors(0, 1), columns=pa.table(columns) if columns else None)
    merge_indices(tmp_path / "out", [tmp_path / name / "i" for name in "abc"])
    found = Snapshot(tmp_path / "out").metadata().sort_by("id").to_pydict()
    assert found["stars"] == [1, 2, None, None, None, None]
    assert found["tags"] == [None, None, ["x"], None, None, None]
    with Writer.open(tmp_path / "d", model=MODEL, dim=4) as writer:
        writer.commit([row(0)], vectors(0), columns=pa.table({"stars": ["many"]}))
    with pytest.raises(StoreError, match=r"Column 'stars' is int64 in .*a/i, but string in .*/d"):
        merge_indices(tmp_path / "other", [tmp_path / "a" / "i", tmp_path / "d"])
    assert not (tmp_path / "other").exists()


def test_columns_whose_names_differ_in_case_are_joined(tmp_path: Path) -> None:
    for name, column in (("a", "Stars"), ("b", "stars")):
        with Writer.open(tmp_path / name / "i", model=MODEL, dim=4) as writer:
            writer.commit([row(0)], vectors(0), columns=pa.table({column: [name]}))
            with pytest.raises(StoreError, match=f"Columns '{column}' and 'STARS' would be the same one in SQL"):
                writer.commit([row(1)], vectors(1), columns=pa.table({"STARS": ["other"]}))
            with pytest.raises(StoreError, match="the index has one of its own"):
                writer.commit([row(1)], vectors(1), columns=pa.table({"Path": ["other"]}))
    merge_indices(tmp_path / "out", [tmp_path / name / "i" for name in "ab"])
    found = Snapshot(tmp_path / "out")
    assert [column.name for column in found.manifest.columns] == ["Stars"]
    assert found.metadata().sort_by("id").column("Stars").to_pylist() == ["a", "b"]


def test_uris_keep_their_names(tmp_path: Path) -> None:
    for name in "ab":
        with Writer.open(tmp_path / name / "i", model=MODEL, dim=4) as writer:
            rows = [row(0, f"s3://bucket/{name}.jpg"), row(1, "s3://bucket/both.jpg"), row(2, "/else/where.jpg")]
            writer.commit(rows, vectors(0, 1, 2), source=SourceEntry(uri="s3://bucket"))
            writer.record_failures([Failure(path="s3://bucket/bad", stage="read", reason=name)], under="s3://bucket")
    summary = merge_indices(tmp_path / "out", [tmp_path / "b" / "i", tmp_path / "a" / "i"])
    snapshot = Snapshot(tmp_path / "out")
    assert snapshot.metadata().column("path").to_pylist() == [
        *("s3://bucket/b.jpg", "s3://bucket/both.jpg", "/else/where.jpg", "s3://bucket/a.jpg"),
    ]
    assert (summary.skipped, summary.failures) == (2, 1)
    assert snapshot.manifest.sources == (SourceEntry(uri="s3://bucket"),)


def test_an_approximate_index_is_built(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        with Writer.open(tmp_path / name / "i", model=MODEL, dim=DIM) as writer:
            add(writer, clustered(number, 100))
    summary = merge_indices(tmp_path / "out", [tmp_path / name / "i" for name in "ab"], ann=AnnConfig(kind="hnsw"))
    entry = Snapshot(tmp_path / "out").manifest.ann
    assert entry is not None
    assert (summary.ann, entry.rows) == (entry.factory, 200)
    assert (tmp_path / "out" / "ann" / entry.name).is_file()


def test_what_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "a", 0, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    with Writer.open(tmp_path / "other", model=ColourEncoder().identity, dim=4):
        pass
    for out, sources, message in (
        ("out", ["a", "other"], r"/a was made by m .*, but .*/other by colours:16"),
        ("out", ["a", "a"], "/a is named twice"),
        ("out", ["a", "nowhere"], "nowhere holds no index"),
        ("out", [], "No index is named"),
        ("a", ["a"], "/a holds an index already"),
        ("full", ["a"], "/full is not empty: it holds 'x'"),
        ("file", ["a"], "/file is a file"),
        ("file/x", ["a"], "/file/x cannot be written"),
    ):
        with pytest.raises(StoreError, match=message):
            merge_indices(tmp_path / out, [tmp_path / source for source in sources])
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["x"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a", 0, 1)

    def fail(task: str, done: int, total: int, figures: object, /) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_indices(tmp_path / "out", [tmp_path / "a"], progress=fail)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "a" / "shards" / "000001" / "embeddings.npy").unlink()
    with pytest.raises(StoreError, match=r"embeddings\.npy cannot be read"):
        merge_indices(tmp_path / "out", [tmp_path / "a"])
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"writer.lock"}


@pytest.mark.parametrize("is_finished", [False, True])
def test_of_two_merges_into_a_new_folder_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    """The other one leaves it alone, although there was no such folder when it looked."""
    fill(tmp_path / "a", 0, 1)
    fill(tmp_path / "b", 2)
    out = tmp_path / "out"
    copying, lost, mkdir = threading.Event(), threading.Event(), Path.mkdir

    def wait(task: str, done: int, total: int, figures: object, /) -> None:
        copying.set()
        assert is_finished or lost.wait(60)

    with ThreadPoolExecutor(1) as pool:
        winners = []

        def overtaken(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
            if self == out and threading.current_thread() is threading.main_thread():
                winners.append(pool.submit(merge_indices, out, [tmp_path / "a"], progress=wait))
                assert copying.wait(60)
                assert not is_finished or winners[0].result()
            mkdir(self, mode, parents, exist_ok)

        monkeypatch.setattr(Path, "mkdir", overtaken)
        try:
            with pytest.raises(StoreError, match="holds an index already" if is_finished else "is being written by"):
                merge_indices(out, [tmp_path / "b"])
            assert is_finished or {"writer.lock", "writer.json"} <= {path.name for path in out.iterdir()}
        finally:
            lost.set()
        assert winners[0].result().total == 2
    assert by_uri(out).keys() == {str(tmp_path / "0.jpg"), str(tmp_path / "1.jpg")}
    check_intact(Snapshot(out))


KILLED = """
import os, signal, sys
from pathlib import Path
from llm2clip_search import merge_indices
calls, rename = [0], Path.rename
def counted(self, target):
    calls[0] += 1
    if calls[0] > int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = counted
merge_indices(sys.argv[2], sys.argv[3:], rows_per_commit=3)
"""


def test_a_killed_merge_is_no_index_and_can_be_run_again(tmp_path: Path) -> None:
    """At each rename: of the shards, and of the finished index out of its hidden folder."""
    fill(tmp_path / "a", 0, 1, 2, 3, 4)
    out = tmp_path / "out"
    for step in range(20):
        words = [sys.executable, "-c", KILLED, str(step), str(out), str(tmp_path / "a")]
        done = subprocess.run(words, env=dict(os.environ), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        with pytest.raises(StoreError, match="holds no index"):
            Snapshot(out)
    assert step == 6  # two shards, then "shards", "failures.parquet", "checked.json" and the manifest
    assert len(by_uri(out)) == 5
    check_intact(Snapshot(out))
    np.testing.assert_array_equal(Snapshot(out).live_ids, np.arange(5))
