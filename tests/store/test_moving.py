"""Paths that are rewritten: schema 3 and its sources, columns of paths, and power cuts on the way."""

import json
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.engine.filter import Filter
from llm2clip_search.store import Snapshot, SourceEntry, Writer
from llm2clip_search.store.moving import move_paths
from llm2clip_search.store.paths import PathChange
from tests.support.faults import PowerCutError, cut_power_at
from tests.support.stores import MODEL, check_intact, live, row, vectors

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def schema_3(tmp_path: Path) -> Path:
    """An index of schema 3, written by the version that had it; never to be written again."""
    shutil.copytree(FIXTURES / "v3", tmp_path / "v3")
    return tmp_path / "v3"


def test_schema_3_opens_for_ever(schema_3: Path) -> None:
    snapshot = Snapshot(schema_3)
    check_intact(snapshot)
    assert live(schema_3) == {0: "photos/0.jpg", 1: "photos/sub/renamed.jpg", 3: "s3://bucket/3.jpg"}
    assert snapshot.manifest.sources == (SourceEntry(uri="photos"), SourceEntry(uri="s3://bucket"))
    assert (snapshot.manifest.base, snapshot.manifest.columns[0].name) == ("", "stars")
    np.testing.assert_array_equal(snapshot.vectors([0, 1, 3]), vectors(0, 1, 3))
    assert [failure["path"] for failure in snapshot.failures()] == ["photos/bad.jpg"]
    assert json.loads((schema_3 / "manifest.json").read_text())["schema_version"] == 3  # a reader writes nothing


def test_schema_3_is_migrated_by_the_next_commit(schema_3: Path) -> None:
    move = PathChange(
        before=schema_3.parent, after=schema_3.parent, moves=((f"{schema_3.parent}/photos", f"{schema_3.parent}/p"),)
    )
    with Writer.open(schema_3, model=MODEL, dim=4) as writer:
        assert move_paths(writer, move, base=schema_3.parent.as_posix()) == 2
    raw = json.loads((schema_3 / "manifest.json").read_text())
    assert (raw["schema_version"], raw["base"], "roots" in raw) == (5, schema_3.parent.as_posix(), False)
    snapshot = Snapshot(schema_3)
    check_intact(snapshot)
    assert live(schema_3) == {0: "p/0.jpg", 1: "p/sub/renamed.jpg", 3: "s3://bucket/3.jpg"}
    assert [each["stars"] for each in snapshot.rows([0, 3])] == [None, 5]
    assert [each["corpus"] for each in snapshot.rows([0, 1, 3])] == ["p", "p/sub", "s3://bucket"]
    assert [failure["path"] for failure in snapshot.failures()] == ["p/bad.jpg"]


def test_schema_4_opens_for_ever(tmp_path: Path) -> None:
    """Its rows are images, and the next commit migrates it; the fixture is never to be written again."""
    shutil.copytree(FIXTURES / "v4", tmp_path / "v4")
    snapshot = Snapshot(tmp_path / "v4")
    check_intact(snapshot)
    assert live(tmp_path / "v4") == {0: "photos/0.jpg", 1: "photos/1.jpg", 3: "s3://bucket/3.jpg"}
    photos = SourceEntry(uri="photos", exclude=("thumbs/",), everything=True, mounts=("photos/disk",))
    assert snapshot.manifest.sources == (photos, SourceEntry(uri="s3://bucket"))
    assert [(each["modality"], each["caption"], each["stars"]) for each in snapshot.rows([0, 3])] == [
        (None, None, None),
        (None, None, 5),
    ]
    assert [(failure["path"], failure.get("corpus")) for failure in snapshot.failures()] == [("photos/bad.jpg", None)]
    assert Filter(snapshot).ids("modality IS NULL AND keywords IS NULL").tolist() == [0, 1, 3]
    with Writer.open(tmp_path / "v4", model=MODEL, dim=4) as writer:
        writer.commit([replace(row(4, "a.txt"), modality="text", text="a passage", keywords=["x"])], vectors(4))
    assert json.loads((tmp_path / "v4" / "manifest.json").read_text())["schema_version"] == 5
    snapshot = Snapshot(tmp_path / "v4")
    check_intact(snapshot)
    assert Filter(snapshot).ids("text = 'a passage' AND list_contains(keywords, 'x')").tolist() == [4]
    assert Filter(snapshot).ids("modality IS DISTINCT FROM 'text'").tolist() == [0, 1, 3]


@pytest.mark.parametrize("late", [False, True])
def test_a_power_cut_while_paths_are_rewritten_leaves_the_old_ones_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """In several shards; dead rows are dropped on the way."""
    before = {0: "a/0.jpg", 2: "a/2.jpg", 3: "b/3.jpg", 4: "a/4.jpg"}
    after = {number: path.replace("a/", "moved/") for number, path in before.items()}
    for step in range(100):
        folder = tmp_path / str(step) / "i"
        folder.parent.mkdir()
        with Writer.open(folder, model=MODEL, dim=4) as writer:
            writer.commit([row(n, f"a/{n}.jpg") for n in (0, 1, 2)], vectors(0, 1, 2), source=SourceEntry(uri="a"))
            writer.commit([row(3, "b/3.jpg"), row(4, "a/4.jpg")], vectors(3, 4), removed=[1])
        base = folder.parent
        change = PathChange(before=base, after=base, moves=((f"{base}/a", f"{base}/moved"),))
        done = False
        with monkeypatch.context() as patch:
            cut_power_at(patch, step, late=late)
            try:
                with Writer.open(folder, model=MODEL, dim=4) as writer:
                    move_paths(writer, change)
                done = True
            except PowerCutError:
                pass
        check_intact(Snapshot(folder))
        assert live(folder) in (before, after)
        names = {source.uri for source in Snapshot(folder).manifest.sources}
        assert names == ({"moved"} if live(folder) == after else {"a"})
        if done:
            break
    assert step > 8
    assert live(folder) == after
    np.testing.assert_array_equal(Snapshot(folder).vectors([0, 2, 3, 4]), vectors(0, 2, 3, 4))


names = st.sampled_from(["a", "b", "ab", "a b", "é", "%41", "*", "猫"])
stored = st.one_of(
    st.lists(names, min_size=1, max_size=4).map("/".join),
    st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    st.lists(names, min_size=1, max_size=3).map(lambda parts: "s3://" + "/".join(parts)),
    st.just("."),
)


@given(st.lists(stored, min_size=1, max_size=6), stored, stored, stored, stored)
def test_columns_of_paths_change_as_single_paths_do(
    paths: list[str], before: str, after: str, old: str, new: str
) -> None:
    """Against the same rule in terms of `PurePosixPath`."""
    base, then = (PurePosixPath("/r") / each.replace("s3://", "") for each in (before, after))
    places = [each if "://" in each else str(base / each) for each in (old, new)]

    def expected(path: str) -> str:
        whole = path if "://" in path else str(base / path)
        top, other = (place.rstrip("/") for place in places)
        if whole == top or whole.startswith(f"{top}/"):
            whole = other + whole[len(top) :] or "/"
        if "://" in whole:
            return whole
        return str(PurePosixPath(whole).relative_to(then)) if PurePosixPath(whole).is_relative_to(then) else whole

    change = PathChange(before=Path(base), after=Path(then), moves=((places[0], places[1]),))
    assert change.of_all(pa.chunked_array([paths], pa.string())).to_pylist() == [expected(path) for path in paths]
    assert change.of(paths[0]) == expected(paths[0])


def test_a_mask_of_paths_is_what_is_under_does_for_each(tmp_path: Path) -> None:
    with Writer.open(tmp_path / "i", model=MODEL, dim=4) as writer:
        snapshot = writer.snapshot
    paths = ["a/x", "ab/x", "a", "/a/x", str(tmp_path / "a" / "y"), "s3://a/x", str(tmp_path.parent / "z")]
    for root in (".", "a", "/", "/a", "s3://a", tmp_path.as_posix(), tmp_path.parent.as_posix()):
        mask = snapshot.below(pa.chunked_array([paths], pa.string()), root)
        assert mask.tolist() == [snapshot.is_under(path, root) for path in paths], root


def test_a_source_is_remembered_as_it_was_last_read(tmp_path: Path) -> None:
    first = SourceEntry(uri="a", exclude=("x/",), everything=True)
    with Writer.open(tmp_path / "i", model=MODEL, dim=4) as writer:
        assert writer.manifest.base == tmp_path.as_posix()
        for source in (first, SourceEntry(uri="b"), replace(first, exclude=())):
            writer.commit(source=source)
    assert Snapshot(tmp_path / "i").manifest.sources == (replace(first, exclude=()), SourceEntry(uri="b"))
