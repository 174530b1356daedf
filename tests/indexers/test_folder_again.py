"""Index runs that meet trouble or a different place: interruptions, other paths, names, patterns and twins."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llm2clip_search import index_corpus
from llm2clip_search.corpora import FolderCorpus, Item, SourceOptions
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.corpora.decode import decode_item, read_facts
from llm2clip_search.corpora.skipped import SYSTEM_FOLDERS
from llm2clip_search.encoders.images import Picture
from llm2clip_search.errors import CorpusError, ModelError
from llm2clip_search.indexers.sources import open_sources
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder
from tests.support.folders import check, rows, update
from tests.support.images import PREPROCESS, photograph


def test_an_interrupted_run_keeps_what_it_has_not_replaced(photographs: Path, colours: ColourEncoder) -> None:
    """A changed file's old row stays until its new vector is there, though other rows are committed."""
    update(photographs, colours)
    before = rows(photographs)
    for path in photographs.rglob("*.png"):
        photograph(500 + int(path.stem[-2:]), (70, 50)).save(path)
    real = colours.encode_pixels

    def failing(pixels: np.ndarray) -> np.ndarray:
        if colours.embedded >= 16:
            raise ModelError("the tower is gone")
        return real(pixels)

    colours.encode_pixels = failing  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="gone"):
        update(photographs, colours)
    after = rows(photographs)
    assert after.keys() == before.keys()
    assert sum(after[path]["id"] != before[path]["id"] for path in before) == 4  # one batch came through
    colours.encode_pixels = real  # type: ignore[method-assign]
    summary = update(photographs, colours)
    assert (summary.indexed, summary.unchanged) == (8, 4)
    check(photographs, colours)


def test_a_model_that_embeds_nothing_any_more_ends_the_run(photographs: Path, colours: ColourEncoder) -> None:
    """As after an error of a GPU, which every later call raises too: images are not at fault, and keep their rows."""
    update(photographs, colours)
    before = rows(photographs)
    for path in photographs.rglob("*.png"):
        photograph(500 + int(path.stem[-2:]), (70, 50)).save(path)

    def failing(pixels: np.ndarray) -> np.ndarray:
        raise RuntimeError("CUDA error: unspecified launch failure")

    real, colours.encode_pixels = colours.encode_pixels, failing  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"vision tower embeds nothing any more: CUDA error: unspecified"):
        update(photographs, colours)
    assert rows(photographs) == before
    colours.encode_pixels = real  # type: ignore[method-assign]
    assert update(photographs, colours).indexed == 12
    check(photographs, colours)


def test_an_image_that_turns_bad_leaves_and_one_that_heals_returns(photographs: Path, colours: ColourEncoder) -> None:
    update(photographs, colours)
    path = photographs / "2024" / "photo-01.png"
    whole = path.read_bytes()
    old = rows(photographs)["images/2024/photo-01.png"]["id"]
    path.write_bytes(whole[:200])
    assert update(photographs, colours).failed == 1
    assert "images/2024/photo-01.png" not in rows(photographs)
    failures = photographs.parent / ".llm2clip" / "failures.parquet"
    assert pq.read_table(failures).column("path").to_pylist() == ["images/2024/photo-01.png"]
    path.write_bytes(whole)
    assert update(photographs, colours).failed == 0
    assert rows(photographs)["images/2024/photo-01.png"]["id"] != old
    assert pq.read_table(failures).num_rows == 0
    check(photographs, colours)


def test_failures_stay_until_their_file_is_looked_at(photographs: Path, colours: ColourEncoder) -> None:
    """A run that names some files, or that looks for texts, tells nothing of other files that failed."""
    index = photographs.parent / ".llm2clip"

    def failed() -> list[str]:
        return sorted(Path(row["path"]).name for row in Snapshot(index).failures())

    def run(*files: Path, modality: Modality = "image") -> None:
        for corpus in open_sources(files or [photographs], None, options=SourceOptions(modality=modality)):
            index_corpus(corpus, encoder=colours, index=index)

    bad, worse, text = (photographs / name for name in ("bad.png", "worse.png", "broken.txt"))
    named = [photographs / "one.png", photographs / "two.png"]
    for number, path in enumerate(named):
        photograph(600 + number, (70, 50)).save(path)
    for path in (bad, worse):
        path.write_bytes(b"broken")
    text.write_bytes(b"no\0text")
    run()
    assert failed() == ["bad.png", "worse.png"]
    run(*named)
    assert failed() == ["bad.png", "worse.png"]
    run(modality="text")
    assert failed() == ["bad.png", "broken.txt", "worse.png"]
    photograph(700, (70, 50)).save(bad)
    run(bad, *named)
    assert failed() == ["broken.txt", "worse.png"]
    worse.unlink()
    run(*named)
    assert failed() == ["broken.txt"]
    text.write_text("a text")
    run(modality="text")
    assert failed() == []


def test_a_file_that_cannot_be_read_now_keeps_its_row(
    photographs: Path, colours: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network share that hiccups is no reason to forget; what the file holds is not known to have changed."""
    update(photographs, colours)
    real = os.open

    def refusing(path: Any, *options: Any, **named: Any) -> int:
        if str(path).endswith("photo-01.png"):
            raise OSError(5, "Input/output error")
        return real(path, *options, **named)

    monkeypatch.setattr(os, "open", refusing)
    os.utime(photographs / "2024" / "photo-01.png", (1, 1))
    summary = update(photographs, colours)
    assert (summary.failed, summary.total) == (1, 12)
    assert summary.failures[0]["stage"] == "read"
    assert "Input/output error" in summary.failures[0]["reason"]


def test_the_way_to_the_index_does_not_matter(
    photographs: Path, colours: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside, from beside with dots, and by absolute path, the files are the same files."""
    from llm2clip_search.indexers import index_folder

    base = photographs.parent
    (base / "beside").mkdir()
    monkeypatch.chdir(base)
    assert index_folder("images", encoder=colours).total == 12  # a new index here
    assert (base / ".llm2clip").is_dir()
    for place, root, index in (
        ("images/2024", "..", None),  # found upward
        ("beside", "../images", "../.llm2clip"),
        ("beside", "../images/./2023/..", base / ".llm2clip"),
        ("/", photographs, base / "beside" / ".." / ".llm2clip"),
    ):
        monkeypatch.chdir(base / place)
        summary = index_folder(root, encoder=colours, index=index)
        assert (summary.unchanged, summary.total) == (12, 12)
    assert colours.embedded == 12
    assert [source.uri for source in Snapshot(base / ".llm2clip").manifest.sources] == ["images"]


def test_an_index_moves_with_its_images(photographs: Path, colours: ColourEncoder, tmp_path: Path) -> None:
    update(photographs, colours)
    shutil.move(photographs.parent, tmp_path.parent / f"{tmp_path.name}-moved")
    moved = tmp_path.parent / f"{tmp_path.name}-moved" / photographs.name
    assert (update(moved, colours).unchanged, colours.embedded) == (12, 12)
    check(moved, colours)


def test_newly_excluded_files_leave_the_index(photographs: Path, colours: ColourEncoder) -> None:
    update(photographs, colours)
    summary = update(photographs, colours, exclude=("2023/",))
    assert (summary.removed, summary.total) == (6, 6)


def test_twins_keep_apart(tmp_path: Path, colours: ColourEncoder) -> None:
    """Equal files have a row each; when one is renamed and the other deleted, one id lives on."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        photograph(1).save(folder / f"{name}.png")
    update(folder, colours)
    ids = {path: row["id"] for path, row in rows(folder).items()}
    assert len(set(ids.values())) == 3
    (folder / "a.png").rename(folder / "x.png")
    (folder / "b.png").unlink()
    summary = update(folder, colours)
    assert (summary.indexed, summary.reused, summary.removed) == (0, 1, 1)
    now = {path: row["id"] for path, row in rows(folder).items()}
    assert now["images/c.png"] == ids["images/c.png"]
    assert now["images/x.png"] in (ids["images/a.png"], ids["images/b.png"])
    check(folder, colours)


def test_folders_of_no_interest_are_skipped_and_loops_end(tmp_path: Path) -> None:
    for name in (*SYSTEM_FOLDERS, ".hidden", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
    (tmp_path / "kept" / "loop").symlink_to(tmp_path / "kept")
    (tmp_path / "kept" / "drawing.eps").touch()
    (tmp_path / "kept" / "folder.png").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / ".hidden")  # a link that the user made is followed
    corpus = FolderCorpus(tmp_path)
    names = [Path(item.uri).relative_to(tmp_path).as_posix() for item in corpus.items()]
    assert names == ["kept/x.png", "linked/x.png"]
    assert corpus.unreadable() == {}


def test_folders_and_patterns_that_cannot_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match="File name too long"):
        list(FolderCorpus(tmp_path / ("a" * 300)).items())
    with pytest.raises(CorpusError, match="not a gitignore pattern"):
        list(FolderCorpus(tmp_path, exclude=["!"]).items())
    (tmp_path / ".llm2clipignore").write_bytes(b"caf\xe9/\n")
    with pytest.raises(CorpusError, match=r"\.llm2clipignore cannot be read as UTF-8"):
        list(FolderCorpus(tmp_path).items())
    (tmp_path / ".llm2clipignore").unlink()

    def refusing(path: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(CorpusError, match="cannot be read: Permission denied"):
        list(FolderCorpus(tmp_path).items())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_upright(tmp_path: Path, orientation: int) -> None:
    """Orientations 5 to 8 lie on their side."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(1, (64, 48)).save(tmp_path / "x.jpg", exif=exif)
    decoded = decode_item(FolderCorpus(tmp_path), Item(uri=str(tmp_path / "x.jpg")), PREPROCESS)
    assert decoded.facts is not None
    assert (decoded.facts.width, decoded.facts.height) == ((64, 48) if orientation < 5 else (48, 64))


@pytest.mark.parametrize(
    ("reference", "parts", "latitude"),
    [
        ("N", (48.0, 30.0, 36.0), 48.51),
        ("S", (0.0, 30.0, 0.0), -0.5),
        ("N", (90.0, 0.0, 1.0), None),
        ("N", (float("nan"), 0.0, 0.0), None),
        ("N", (48.0, 30.0), None),
    ],
)
def test_latitudes_are_places_on_earth_or_missing(
    reference: str, parts: tuple[float, ...], latitude: float | None
) -> None:
    image = Image.new("RGB", (2, 2))
    gps = image.getexif().get_ifd(0x8825)
    gps[1], gps[2] = reference, parts
    facts = read_facts(Picture(rgb=image, size=image.size, format=None, exif=image.getexif()))
    assert facts.latitude == (None if latitude is None else pytest.approx(latitude))
    assert facts.longitude is None


def test_only_the_first_frame_and_a_white_ground_are_seen(tmp_path: Path) -> None:
    """Animations by their first frame; what is transparent, also in a palette, as white."""
    Image.new("RGB", (8, 8), "red").save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")]
    )
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.save(tmp_path / "b.png")
    clear.quantize(4).save(tmp_path / "c.png", transparency=0)
    Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16)).save(tmp_path / "d.png")
    seen = {}
    for path in sorted(tmp_path.iterdir()):
        decoded = decode_item(FolderCorpus(tmp_path), Item(uri=str(path)), PREPROCESS)
        assert decoded.pixels is not None
        seen[path.name] = decoded.pixels.mean(axis=(0, 1)).round().tolist()
    assert seen["a.gif"] == pytest.approx([254, 0, 0], abs=2)
    assert seen["b.png"] == seen["c.png"] == [255, 255, 255]
    assert seen["d.png"] == [128, 128, 128]
