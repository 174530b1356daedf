"""Sources that move, vanish and come back; what a run skips and remembers; an index away from its images."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from llm2clip_search import Corpus, Item
from llm2clip_search.corpora import FolderCorpus
from llm2clip_search.errors import CorpusError, StoreError
from llm2clip_search.indexers import (
    IndexConfig,
    IndexSummary,
    forget_source,
    index_corpus,
    index_folder,
    list_sources,
    move_source,
)
from llm2clip_search.store import Snapshot, SourceEntry
from llm2clip_search.store.stranded import stranded_sources
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph, png
from tests.support.stores import check_intact


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder that holds two sources, ``a`` and ``b``, with three images each, two of them in a sub-folder."""
    folder = tmp_path / "base"
    for number, name in enumerate(("a/1", "a/sub/2", "a/sub/3", "b/4", "b/sub/5", "b/sub/6")):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(number).save(path)
    return folder


def run(source: Path, colours: ColourEncoder, index: Path | None = None, **options: object) -> IndexSummary:
    own = {name: options.pop(name) for name in ("exclude", "everything") if name in options}
    config = IndexConfig(batch_size=4, threads=2, **options)  # type: ignore[arg-type]
    place = index or source.parent / ".llm2clip"
    return index_folder(source, encoder=colours, index=place, config=config, **own)  # type: ignore[arg-type]


def paths(index: Path) -> dict[str, int]:
    return {row["path"]: row["id"] for row in Snapshot(index).metadata().to_pylist()}


def state(index: Path) -> dict[str, tuple[int, str]]:
    return {Path(source.uri).name: (source.rows, source.state) for source in list_sources(Snapshot(index))}


def test_a_renamed_root_moves_without_being_embedded_again(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours)
    before = paths(base / ".llm2clip")
    (base / "a").rename(base / "c")
    summary = run(base / "c", colours)
    assert (summary.indexed, summary.reused, summary.removed, colours.embedded) == (0, 3, 0, 3)
    assert paths(base / ".llm2clip") == {f"c{path[1:]}": identifier for path, identifier in before.items()}
    assert state(base / ".llm2clip") == {"c": (3, "present")}  # nothing is left of a


def test_a_copied_root_stays_and_its_copy_is_not_embedded(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours)
    before = paths(base / ".llm2clip")
    shutil.copytree(base / "a", base / "c")
    assert run(base / "c", colours).total == 6
    assert paths(base / ".llm2clip").items() >= before.items()
    assert (colours.embedded, state(base / ".llm2clip")) == (3, {"a": (3, "present"), "c": (3, "present")})


def test_what_is_not_found_of_a_missing_root_stays_and_is_said(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours)
    (base / "a").rename(base / "c")
    (base / "c" / "sub" / "3.png").unlink()
    summary = run(base / "c", colours)
    assert summary.missing == {str(base / "a"): 1}
    assert sorted(paths(base / ".llm2clip")) == ["a/sub/3.png", "c/1.png", "c/sub/2.png"]
    assert state(base / ".llm2clip") == {"a": (1, "missing"), "c": (2, "present")}


def test_a_file_that_moves_between_sources_keeps_its_id(base: Path, colours: ColourEncoder) -> None:
    """The source that it leaves is not indexed in this run."""
    run(base / "a", colours)
    run(base / "b", colours)
    identifier = paths(base / ".llm2clip")["a/sub/2.png"]
    (base / "a" / "sub" / "2.png").rename(base / "b" / "new.png")
    summary = run(base / "b", colours)
    assert (summary.indexed, summary.reused, summary.total, colours.embedded) == (0, 1, 6, 6)
    assert paths(base / ".llm2clip")["b/new.png"] == identifier
    assert "a/sub/2.png" not in paths(base / ".llm2clip")


def test_a_sub_folder_that_is_empty_now_is_kept_until_it_is_forgotten(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours)
    ids = paths(base / ".llm2clip")
    (base / "a" / "sub").rename(base / "disk")
    (base / "a" / "sub" / "deeper").mkdir(parents=True)  # a folder of folders without any file is as empty
    summary = run(base / "a", colours)
    assert (summary.removed, summary.total, summary.vacant) == (0, 3, {str(base / "a" / "sub"): 2})
    shutil.rmtree(base / "a" / "sub")
    (base / "disk").rename(base / "a" / "sub")
    summary = run(base / "a", colours)
    assert (summary.unchanged, summary.vacant, colours.embedded) == (3, {}, 3)
    assert paths(base / ".llm2clip") == ids
    shutil.rmtree(base / "a" / "sub")
    (base / "a" / "sub").mkdir()
    assert run(base / "a", colours).total == 3
    summary = run(base / "a", colours, forget=True)
    assert (summary.removed, summary.total, summary.vacant) == (2, 1, {})


def test_a_link_without_its_target_is_an_unmounted_disk(base: Path, colours: ColourEncoder) -> None:
    (base / "a" / "sub").rename(base / "disk")
    (base / "a" / "sub").symlink_to(base / "disk")
    (base / "a" / "1.png").rename(base / "file")
    (base / "a" / "1.png").symlink_to(base / "file")
    photograph(50).save(base / "a" / "stays.png")
    run(base / "a", colours)
    for name in ("disk", "file"):
        (base / name).rename(base / f"{name}-away")
    summary = run(base / "a", colours)
    assert (summary.removed, summary.vacant) == (0, {str(base / "a" / "sub"): 2, str(base / "a" / "1.png"): 1})
    (base / "a" / "1.png").unlink()  # the user's own doing
    assert run(base / "a", colours).removed == 1


def test_a_sub_folder_that_was_deleted_is_removed(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours)
    shutil.rmtree(base / "a" / "sub")
    assert (run(base / "a", colours).removed, list(paths(base / ".llm2clip"))) == (2, ["a/1.png"])


def test_a_disk_whose_mount_point_has_gone_is_kept_until_it_is_forgotten(
    base: Path, colours: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk is told by its device number, which a test cannot give a folder but by a pretence."""
    real = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        status = real(path, **options)
        return os.stat_result((*status[:2], status[2] + 1, *status[3:])) if path.name == "sub" else status

    monkeypatch.setattr(Path, "stat", stat)
    run(base / "a", colours)
    assert Snapshot(base / ".llm2clip").manifest.sources[0].mounts == ("a/sub",)
    (base / "a" / "sub").rename(base / "away")
    for _ in range(2):
        summary = run(base / "a", colours)
        assert (summary.removed, summary.vacant) == (0, {str(base / "a" / "sub"): 2})
    (base / "away").rename(base / "a" / "sub")
    assert run(base / "a", colours).unchanged == 3
    (base / "a").rename(base / "c")
    move_source(base / ".llm2clip", str(base / "a"), str(base / "c"))
    assert Snapshot(base / ".llm2clip").manifest.sources[0].mounts == ("c/sub",)
    shutil.rmtree(base / "c" / "sub")
    assert run(base / "c", colours, forget=True).removed == 2
    assert Snapshot(base / ".llm2clip").manifest.sources[0].mounts == ()


def test_parts_of_uris_that_cannot_be_read_keep_their_rows(base: Path, colours: ColourEncoder) -> None:
    class Buckets(Bucket):
        left: tuple[str, ...] = ("bucket://b/x/1", "bucket://b/y/1")

        def items(self) -> "list[Item]":  # type: ignore[override]
            return [Item(uri=uri, version="1") for uri in self.left]

        def unreadable(self) -> dict[str, str]:
            return {"bucket://b/x": "no permission"} if len(self.left) == 1 else {}

    run(base / "a", colours)
    buckets = Buckets()
    index_corpus(buckets, encoder=colours, index=base / ".llm2clip")
    buckets.left = ("bucket://b/z/1",)
    index_corpus(buckets, encoder=colours, index=base / ".llm2clip")
    assert {path for path in paths(base / ".llm2clip") if "://" in path} == {"bucket://b/x/1", "bucket://b/z/1"}


def test_an_emptied_source_can_be_forgotten_by_a_run(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours)
    run(base / "b", colours)
    shutil.rmtree(base / "a")
    with pytest.raises(CorpusError, match="There is no folder") as caught:
        run(base / "a", colours)
    assert "sources forget" in caught.value.hint
    (base / "a").mkdir()
    with pytest.raises(CorpusError, match="the index keeps the 3 it knows from there") as caught:
        run(base / "a", colours)
    assert "--forget" in caught.value.hint
    assert state(base / ".llm2clip")["a"] == (3, "empty")
    assert run(base / "a", colours, forget=True).removed == 3
    assert sorted(paths(base / ".llm2clip")) == ["b/4.png", "b/sub/5.png", "b/sub/6.png"]


def test_sources_are_forgotten_whether_they_exist_or_not(base: Path, colours: ColourEncoder) -> None:
    (base / "a" / "sub" / "bad.png").write_bytes(b"GIF89a")
    run(base / "a", colours)
    run(base / "b", colours)
    index = base / ".llm2clip"
    shutil.rmtree(base / "b")
    assert forget_source(index, str(base / "b")) == 3
    assert state(index) == {"a": (3, "present")}
    assert forget_source(index, str(base / "a" / "sub")) == 2
    assert (state(index), pq.read_table(index / "failures.parquet").num_rows) == ({"a": (1, "present")}, 0)
    for nothing in (base / "b", base / "a" / "s"):
        with pytest.raises(StoreError, match=f"has nothing below {nothing}"):
            forget_source(index, str(nothing))
    assert forget_source(index, str(base)) == 1
    assert Snapshot(index).manifest.sources == ()


def test_sources_are_moved_by_their_paths_alone(base: Path, colours: ColourEncoder, tmp_path: Path) -> None:
    (base / "a" / "bad.png").write_bytes(b"GIF89a")
    run(base / "a", colours, exclude=["nothing/"])
    run(base / "b", colours)
    index = base / ".llm2clip"
    before, vectors = paths(index), Snapshot(index).vectors(range(6))
    (tmp_path / "outside").mkdir()
    (base / "a").rename(tmp_path / "outside" / "c")
    with pytest.raises(CorpusError, match="There is no folder"):
        move_source(index, str(base / "a"), str(base / "mistyped"))
    assert move_source(index, str(base / "a"), str(tmp_path / "outside" / "c")) == 3
    (base / "b" / "sub").rename(base / "d")
    assert move_source(index, str(base / "b" / "sub"), str(base / "d")) == 2
    snapshot = Snapshot(index)
    check_intact(snapshot)
    places = {"a": f"{tmp_path}/outside/c", "b/sub": "d"}
    expected = {"b/4.png": before["b/4.png"]}
    for old, new in places.items():
        expected |= {path.replace(old, new, 1): i for path, i in before.items() if path.startswith(f"{old}/")}
    assert paths(index) == expected
    np.testing.assert_array_equal(snapshot.vectors(range(6)), vectors)
    assert snapshot.failures()[0]["path"] == f"{tmp_path}/outside/c/bad.png"
    assert set(snapshot.manifest.sources) == {
        SourceEntry(uri=f"{tmp_path}/outside/c", exclude=("nothing/",)),
        *(SourceEntry(uri="b"), SourceEntry(uri="d")),
    }
    assert {row["corpus"] for row in snapshot.metadata().to_pylist()} == {f"{tmp_path}/outside/c", "b"}
    # Nothing was read or embedded, and the times are known, so nothing is left to do.
    assert [run(place, colours, index).unchanged for place in (tmp_path / "outside" / "c", base / "d")] == [3, 2]
    assert colours.embedded == 6


def test_moving_onto_a_folder_that_was_indexed_leaves_one_row_a_file(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours)
    shutil.copytree(base / "a", base / "c")
    run(base / "c", colours)
    shutil.rmtree(base / "a")
    assert move_source(base / ".llm2clip", str(base / "a"), str(base / "c")) == 0
    assert state(base / ".llm2clip") == {"c": (3, "present")}
    with pytest.raises(StoreError, match="has nothing below"):
        move_source(base / ".llm2clip", str(base / "a"), str(base / "c"))


def test_an_index_that_has_moved_alone_follows_its_images(base: Path, colours: ColourEncoder, tmp_path: Path) -> None:
    run(base / "a", colours, exclude=["nothing/"])
    run(base / "b", colours)
    other = tmp_path / "other" / ".llm2clip"
    shutil.copytree(base / ".llm2clip", other)
    assert [source.uri for source in stranded_sources(Snapshot(other))] == ["a", "b"]
    assert stranded_sources(Snapshot(base / ".llm2clip")) == []
    assert state(other) == {"a": (3, "moved"), "b": (3, "moved")}
    summary = run(base / "b", colours, other)
    assert (summary.unchanged, summary.total, summary.followed, colours.embedded) == (3, 6, str(base), 6)
    assert sorted(paths(other)) == sorted(f"{base}/{path}" for path in paths(base / ".llm2clip"))
    assert list_sources(Snapshot(other))[0].exclude == ("nothing/",)
    shutil.rmtree(base / ".llm2clip")
    shutil.move(other, base / ".llm2clip")  # and back
    summary = run(base / "a", colours)
    assert (summary.unchanged, summary.total, summary.followed, colours.embedded) == (3, 6, "", 6)
    assert set(paths(base / ".llm2clip")) == {
        f"{p}.png" for p in ("a/1", "a/sub/2", "a/sub/3", "b/4", "b/sub/5", "b/sub/6")
    }


def test_an_index_that_is_its_own_source_is_found_by_its_files(
    base: Path, colours: ColourEncoder, tmp_path: Path
) -> None:
    """The source is the folder that holds the index, which is there wherever the index is."""
    run(base, colours, base / ".llm2clip")
    shutil.copytree(base, tmp_path / "copy")  # with its images
    assert stranded_sources(Snapshot(tmp_path / "copy" / ".llm2clip")) == []
    assert run(tmp_path / "copy", colours, tmp_path / "copy" / ".llm2clip").total == 6
    shutil.copytree(base / ".llm2clip", tmp_path / "other" / ".llm2clip")  # without them
    assert len(stranded_sources(Snapshot(tmp_path / "other" / ".llm2clip"))) == 1
    assert move_source(tmp_path / "other" / ".llm2clip", str(tmp_path / "other"), str(base)) == 6
    assert stranded_sources(Snapshot(tmp_path / "other" / ".llm2clip")) == []
    assert (run(base, colours, tmp_path / "other" / ".llm2clip").unchanged, colours.embedded) == (6, 6)


def test_patterns_are_remembered_and_can_be_changed(base: Path, colours: ColourEncoder) -> None:
    assert run(base / "a", colours, exclude=["sub/"]).total == 1
    summary = run(base / "a", colours)
    assert (summary.total, summary.exclude, summary.skipped.excluded) == (1, ["sub/"], 1)
    assert run(base / "b", colours).total == 4  # each source has its own
    assert run(base / "a", colours, exclude=["2.png"]).total == 5
    assert run(base / "a", colours, exclude=[]).total == 6
    assert run(base / "a", colours).total == 6


def test_a_part_of_a_source_is_read_as_the_source_is(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours, exclude=["/sub/2.png"])
    photograph(70).save(base / "a" / "sub" / "new.png")
    summary = run(base / "a" / "sub", colours, base / ".llm2clip")
    assert (summary.indexed, summary.unchanged, summary.total) == (1, 1, 3)
    assert state(base / ".llm2clip") == {"a": (3, "present")}
    assert {row["corpus"] for row in Snapshot(base / ".llm2clip").metadata().to_pylist()} == {"a"}


def test_an_excluded_folder_may_be_a_source_of_its_own(base: Path, colours: ColourEncoder) -> None:
    """Neither run undoes what the other one does."""
    run(base / "a", colours, exclude=["sub/"])
    run(base / "a" / "sub", colours, base / ".llm2clip")
    assert state(base / ".llm2clip") == {"a": (1, "present"), "sub": (2, "present")}
    assert (run(base / "a", colours).removed, run(base / "a" / "sub", colours, base / ".llm2clip").unchanged) == (0, 2)
    (base / "a" / "sub" / "2.png").unlink()
    assert run(base / "a", colours).removed == 1  # it is gone for both
    assert colours.embedded == 3


def test_equal_images_of_one_run_are_embedded_once(tmp_path: Path, colours: ColourEncoder) -> None:
    """Across batches and commits; a picture that fails fails in each of its files."""
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number:02}.png").write_bytes(png(number % 7))
    for number in range(3):
        (tmp_path / "in" / f"{number}-bad.png").write_bytes(b"not a picture")
    summary = run(tmp_path / "in", colours, rows_per_commit=5)
    assert (summary.indexed, summary.reused, summary.failed, summary.total) == (7, 23, 3, 30)
    assert colours.embedded == 7
    found = paths(tmp_path / ".llm2clip")
    vectors = Snapshot(tmp_path / ".llm2clip").vectors([found[f"in/{number:02}.png"] for number in range(30)])
    np.testing.assert_array_equal(vectors[:7], vectors[7:14])
    sizes = {(row["width"], row["height"]) for row in Snapshot(tmp_path / ".llm2clip").metadata().to_pylist()}
    assert sizes == {(64, 48)}


def test_a_picture_that_the_tower_refuses_fails_in_each_of_its_files(tmp_path: Path, colours: ColourEncoder) -> None:
    (tmp_path / "in").mkdir()
    for number, seed in enumerate((1, 2, 1, 1, 3, 1)):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(seed))
    poison = colours.encode_images([tmp_path / "in" / "0.png"])
    real = colours.encode_pixels

    def picky(pixels: np.ndarray) -> np.ndarray:
        vectors = real(pixels)
        vectors[np.abs(vectors - poison).max(axis=1) < 1e-6] = np.nan
        return vectors

    colours.encode_pixels = picky  # type: ignore[method-assign]
    summary = run(tmp_path / "in", colours)
    assert (summary.indexed, summary.failed, summary.total) == (2, 4, 2)
    assert {failure["reason"] for failure in summary.failures} == {"the vision tower gave a vector that is not finite"}


def test_a_change_that_only_ctime_shows_is_seen(base: Path, colours: ColourEncoder) -> None:
    """Of the same size, with the time put back, as tools leave it that write into EXIF."""
    path = base / "a" / "bitmap.bmp"
    photograph(80).save(path)
    run(base / "a", colours)
    before = path.stat()
    photograph(81).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert run(base / "a", colours).indexed == 1


def test_a_row_whose_ctime_alone_differs_gets_its_version_without_the_tower(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours)
    before = paths(base / ".llm2clip")
    (base / "a" / "1.png").chmod(0o600)
    summary = run(base / "a", colours)
    assert (summary.reused, summary.unchanged, colours.embedded) == (1, 2, 3)
    assert run(base / "a", colours).unchanged == 3
    assert paths(base / ".llm2clip") == before


class Earlier(FolderCorpus):
    """A folder as earlier versions wrote it: an item's version is the time of its content."""

    def items(self) -> "list[Item]":  # type: ignore[override]
        return [Item(uri=i.uri, version=str(i.mtime_ns), size=i.size, mtime_ns=i.mtime_ns) for i in super().items()]


def test_rows_of_earlier_versions_are_not_read_again(base: Path, colours: ColourEncoder) -> None:
    """Their versions hold no ctime; --rehash reads what it cannot tell."""
    index = base / ".llm2clip"
    path = base / "a" / "bitmap.bmp"
    photograph(80).save(path)
    index_corpus(Earlier(base / "a"), encoder=colours, index=index)
    before = path.stat()
    photograph(81).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    summary = run(base / "a", colours)
    assert (summary.unchanged, summary.indexed, summary.seconds["read"]) == (4, 0, 0)
    summary = run(base / "a", colours, rehash=True)
    assert (summary.unchanged, summary.indexed) == (3, 1)


def test_rehash_reads_everything_and_embeds_nothing_that_is_known(base: Path, colours: ColourEncoder) -> None:
    run(base / "a", colours)
    generation = Snapshot(base / ".llm2clip").manifest.generation
    summary = run(base / "a", colours, rehash=True)
    assert (summary.unchanged, summary.indexed, summary.reused, colours.embedded) == (3, 0, 0, 3)
    assert summary.seconds["read"] > 0
    assert [entry.rows for entry in Snapshot(base / ".llm2clip").manifest.shards] == [3]  # nothing is written again
    assert Snapshot(base / ".llm2clip").manifest.generation > generation  # the failures are


class Bucket(Corpus):
    """Images that are no files."""

    uri = "bucket://b"

    def items(self) -> "list[Item]":  # type: ignore[override]
        return [Item(uri="bucket://b/1", version="1")]

    def open(self, item: Item) -> bytes:
        return png(1)


def test_a_source_that_is_no_folder_has_no_state(base: Path, colours: ColourEncoder) -> None:
    index = base / ".llm2clip"
    index_corpus(Bucket(), encoder=colours, index=index)
    (base / "c").mkdir()
    (base / "c" / "copy.png").write_bytes(png(1))
    assert run(base / "c", colours).reused == 1  # the bucket cannot be looked at, so this is a copy
    assert state(index) == {"b": (1, "unknown"), "c": (1, "present")}
    assert move_source(index, "bucket://b", "bucket://renamed") == 1
    assert sorted(paths(index)) == ["bucket://renamed/1", "c/copy.png"]
    assert forget_source(index, "bucket://renamed") == 1
