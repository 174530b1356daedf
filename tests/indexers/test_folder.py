"""A folder and its index, again and again: what is embedded, kept, moved and forgotten."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2clip_search.corpora import FolderCorpus
from llm2clip_search.errors import CorpusError, StoreError
from llm2clip_search.indexers import index_folder
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder
from tests.support.folders import check, rows, update
from tests.support.images import photograph


def test_only_changes_are_embedded(photographs: Path, colours: ColourEncoder) -> None:
    """Ten added, renamed and deleted: ten embedded; renamed files keep their id."""
    for number in range(100, 130):
        photograph(number).save(photographs / f"{number}.png")
    first = update(photographs, colours)
    assert (first.indexed, first.total, colours.embedded) == (42, 42, 42)
    second = update(photographs, colours)
    assert (second.indexed, second.unchanged, colours.embedded) == (0, 42, 42)
    ids = {path: row["id"] for path, row in rows(photographs).items()}
    for number in range(10):
        photograph(200 + number).save(photographs / f"new-{number}.png")
        (photographs / f"{100 + number}.png").rename(photographs / "2023" / f"moved-{number}.png")
        (photographs / f"{110 + number}.png").unlink()
    third = update(photographs, colours)
    assert (third.indexed, third.reused, third.removed, third.unchanged) == (10, 10, 10, 22)
    assert colours.embedded == 52
    now = rows(photographs)
    for number in range(10):
        assert now[f"images/2023/moved-{number}.png"]["id"] == ids[f"images/{100 + number}.png"]
    check(photographs, colours)


def test_touched_copied_and_changed_files(photographs: Path, colours: ColourEncoder) -> None:
    update(photographs, colours)
    before = rows(photographs)
    touched, changed, copied, old = (photographs / "2024" / f"photo-0{n}.png" for n in (1, 3, 5, 7))
    os.utime(touched, (1, 1))
    os.utime(old, (-(10**9), -(10**9)))  # in 1938
    os.utime(copied, (10**10, 10**10))  # in 2286, more nanoseconds than fit into 64 bits
    photograph(999).save(changed)
    shutil.copy(copied, photographs / "copy.png")
    summary = update(photographs, colours)
    assert (summary.indexed, summary.reused, summary.removed) == (1, 4, 0)
    after = rows(photographs)
    key = touched.relative_to(photographs.parent).as_posix()
    assert after[key]["id"] == before[key]["id"]
    assert after[key]["mtime_ns"] == 10**9
    assert after[copied.relative_to(photographs.parent).as_posix()]["mtime_ns"] == 0
    assert after[old.relative_to(photographs.parent).as_posix()]["mtime_ns"] == -(10**18)
    key = changed.relative_to(photographs.parent).as_posix()
    assert after[key]["id"] not in {row["id"] for row in before.values()}
    check(photographs, colours)


operations = st.lists(
    st.tuples(st.sampled_from(["add", "delete", "rename", "change", "copy", "swap", "index"]), st.integers(0, 10**6)),
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations)
def test_after_any_history_the_index_is_the_folder(colours: ColourEncoder, steps: list[tuple[str, int]]) -> None:
    """Random additions, deletions, renames, changes, copies and swaps, with index runs in between."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        photograph(1).save(folder / "stays.png")
        for step, seed in [*steps, ("index", 0)]:
            dice = random.Random(seed)
            files = sorted(path for path in folder.iterdir() if path.name != "stays.png")
            new = folder / f"f{dice.randrange(50)}.png"
            if step == "index":
                update(folder, colours, rows_per_commit=3)
                check(folder, colours)
            elif step == "add":
                photograph(dice.randrange(8)).save(new)
            elif files and step == "delete":
                dice.choice(files).unlink()
            elif files and step == "rename":
                dice.choice(files).rename(new)
            elif files and step == "change":
                photograph(dice.randrange(8), (80, 48)).save(dice.choice(files))
            elif files and step == "copy":
                (folder / f"g{dice.randrange(50)}.png").write_bytes(dice.choice(files).read_bytes())
            elif len(files) > 1 and step == "swap":
                one, other = dice.sample(files, 2)
                one.rename(folder / "x.tmp")
                other.rename(one)
                (folder / "x.tmp").rename(other)


def test_two_corpora_live_in_one_index(tmp_path: Path, colours: ColourEncoder) -> None:
    """Indexing one does not forget the other; a part of a corpus can be brought up to date alone."""
    for name in ("a", "ab"):
        (tmp_path / name / "sub").mkdir(parents=True)
        for number in range(3):
            photograph(number + 10 * len(name)).save(tmp_path / name / "sub" / f"{number}.png")
    update(tmp_path / "a", colours)
    update(tmp_path / "ab", colours)
    (tmp_path / "a" / "sub" / "0.png").unlink()
    summary = update(tmp_path / "a", colours)
    assert (summary.removed, summary.total) == (1, 5)
    (tmp_path / "ab" / "sub" / "1.png").unlink()
    index = tmp_path / ".llm2clip"
    assert index_folder(tmp_path / "ab" / "sub", encoder=colours, index=index).removed == 1
    assert sorted(rows(tmp_path / "a")) == ["a/sub/1.png", "a/sub/2.png", "ab/sub/0.png", "ab/sub/2.png"]
    assert [source.uri for source in Snapshot(index).manifest.sources] == ["a", "ab"]


def test_a_corpus_above_the_index_is_kept_in_step(tmp_path: Path, colours: ColourEncoder) -> None:
    """Paths inside the index's parent are relative, those outside absolute; both belong to the corpus."""
    (tmp_path / "in").mkdir()
    for place in (tmp_path, tmp_path / "in"):
        photograph(len(str(place))).save(place / "x.png")
    index = tmp_path / "in" / ".llm2clip"
    assert index_folder(tmp_path, encoder=colours, index=index).total == 2
    (tmp_path / "in" / "x.png").unlink()
    assert index_folder(tmp_path, encoder=colours, index=index).removed == 1


def test_rows_below_an_unreadable_folder_are_kept(
    photographs: Path, colours: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal is simulated where the walk meets it."""
    update(photographs, colours)
    real = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "2023":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    summary = update(photographs, colours)
    assert (summary.unchanged, summary.removed, summary.total) == (6, 0, 12)
    assert summary.unreadable == [f"{photographs / '2023'}: Permission denied"]


def test_what_is_embedded_survives_a_failing_run(photographs: Path, colours: ColourEncoder) -> None:
    """The encoder dies after two batches: their rows are committed, and the next run does the rest."""
    real = colours.encode_pixels

    def dying(pixels: np.ndarray) -> np.ndarray:
        if colours.embedded >= 8:
            raise KeyboardInterrupt
        return real(pixels)

    colours.encode_pixels = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        update(photographs, colours)
    assert len(rows(photographs)) == 8
    colours.encode_pixels = real  # type: ignore[method-assign]
    assert (update(photographs, colours).indexed, colours.embedded) == (4, 12)
    check(photographs, colours)


def test_one_image_that_the_tower_refuses_costs_itself_only(photographs: Path, colours: ColourEncoder) -> None:
    real = colours.encode_pixels
    poison = colours.encode_images([photographs / "2024" / "photo-05.png"])

    def picky(pixels: np.ndarray) -> np.ndarray:
        vectors = real(pixels)
        poisoned = np.abs(vectors - poison).max(axis=1) < 1e-6
        if poisoned.any() and len(pixels) > 1:
            raise RuntimeError("a batch holds what the tower cannot take")
        vectors[poisoned] = np.nan
        return vectors

    colours.encode_pixels = picky  # type: ignore[method-assign]
    summary = update(photographs, colours)
    assert (summary.indexed, summary.failed) == (11, 1)
    assert summary.failures[0]["path"] == "images/2024/photo-05.png"
    assert summary.failures[0]["stage"] == "encode"


def test_walk_takes_images_and_leaves_the_rest(tmp_path: Path) -> None:
    """Hidden and ignored folders, patterns, other files, and a link that leads back up."""
    for name in ("a.png", "B.JPG", "sub/c.webp", ".hidden.png", ".git/d.png", "node_modules/e.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for name in ("thumbs/f.png", "sub/raw_g.png", "drafts/h.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / ".llm2clipignore").write_text("drafts/\n")
    found = list(FolderCorpus(tmp_path, exclude=["thumbs/", "raw_*"]).items())
    assert [Path(item.uri).relative_to(tmp_path).as_posix() for item in found] == ["B.JPG", "a.png", "sub/c.webp"]
    assert all(item.size == 1 for item in found)
    assert all(item.former_version == str(item.mtime_ns) for item in found)
    assert all(item.version.startswith(f"{item.mtime_ns}:") for item in found)


def test_the_first_walk_of_a_process_knows_all_formats(photographs: Path) -> None:
    """Pillow loads most of its readers late, and a process that has opened an image hides that."""
    code = "import sys; from llm2clip_search.corpora import FolderCorpus as F; print(len(list(F(sys.argv[1]).items())))"
    done = subprocess.run([sys.executable, "-c", code, photographs], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(list(FolderCorpus(photographs).items())) > 0


def test_corpora_that_cannot_be(tmp_path: Path, photographs: Path, colours: ColourEncoder) -> None:
    with pytest.raises(CorpusError, match="no folder"):
        update(tmp_path / "nowhere", colours)
    (tmp_path / "file.xyz").touch()
    with pytest.raises(CorpusError, match="nothing here reads"):
        update(tmp_path / "file.xyz", colours)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"no images in .*empty"):
        update(tmp_path / "empty", colours)
    assert not (tmp_path / ".llm2clip").exists()
    update(photographs, colours)
    shutil.rmtree(photographs)
    photographs.mkdir()
    with pytest.raises(CorpusError, match="keeps the 12 it knows"):
        update(photographs, colours)
    assert Snapshot(tmp_path / ".llm2clip").manifest.live == 12
    (tmp_path / "file").touch()
    photograph(1).save(photographs / "x.png")
    with pytest.raises(StoreError, match="cannot be written: not a directory"):
        index_folder(photographs, encoder=colours, index=tmp_path / "file" / "index")


def test_a_file_of_another_size_is_read_though_its_time_is_the_same(photographs: Path, colours: ColourEncoder) -> None:
    """As tools leave it that put back the time of a file."""
    update(photographs, colours)
    path = photographs / "2024" / "photo-01.png"
    before = path.stat()
    photograph(77, (200, 100)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size != before.st_size
    assert update(photographs, colours).indexed == 1
    check(photographs, colours)
