"""Damage of every file of a real index: it is named, queries do not lie about it, and a repair brings all back."""

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2clip_search.corpora import SourceOptions
from llm2clip_search.engine import SearchIndex
from llm2clip_search.engine.filter import Filter
from llm2clip_search.errors import DamagedError, Llm2ClipError
from llm2clip_search.indexers import (
    AnnConfig,
    RepairSummary,
    index_corpus,
    index_folder,
    move_source,
    open_sources,
    repair_index,
)
from llm2clip_search.indexers.commit import Committer
from llm2clip_search.store import Manifest, Snapshot, verify_index
from tests.support.encoders import ColourEncoder
from tests.support.faults import PowerCutError, cut_power_at
from tests.support.folders import check, rows, update
from tests.support.images import photograph

IMAGES = 10


def build(base: Path) -> Path:
    """Ten images after a history: a renamed, a changed and a deleted one, a failure, and an approximate index."""
    folder = base / "photos"
    folder.mkdir(parents=True)
    for number in range(IMAGES + 1):
        photograph(number).save(folder / f"{number}.png")
    encoder = ColourEncoder()
    update(folder, encoder)
    (folder / "0.png").rename(folder / "renamed.png")
    photograph(99).save(folder / "1.png")
    (folder / "2.png").unlink()
    (folder / "broken.jpg").write_bytes(b"nothing")
    update(folder, encoder, ann=AnnConfig(kind="hnsw"))
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("original"))


@pytest.fixture
def photos(original: Path, tmp_path: Path) -> Path:
    """The images and their index, to be damaged."""
    shutil.copytree(original.parent, tmp_path / "copy")
    return tmp_path / "copy" / "photos"


def index_files(index: Path) -> list[Path]:
    files = (path for path in index.rglob("*") if path.is_file())
    return sorted(path for path in files if path.name != "writer.lock" and path.parent.name != "readers")


def repair(photos: Path) -> RepairSummary:
    return repair_index(photos.parent / ".llm2clip", encoder=ColourEncoder)


def digests(index: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in index_files(index)}


def answers(index: Path) -> list[dict[str, float]]:
    """Scores by path: of all images, exactly and approximately, and of those that meet a condition."""
    search = SearchIndex(Snapshot(index), ColourEncoder())
    results = [search.query("a dog", k=20), search.query("a dog", k=20, where="width > 1"), search.query("a dog", k=3)]
    return [{Path(hit.path).name: round(hit.score, 4) for hit in result.hits} for result in results]


def answers_or_error(index: Path) -> list[dict[str, float]] | Llm2ClipError:
    try:
        return answers(index)
    except Llm2ClipError as error:
        return error


def flip(data: bytearray, at: int, _seed: int) -> bytearray:
    data[at] ^= 1 << (_seed % 8)
    return data


def zero(data: bytearray, at: int, seed: int) -> bytearray:
    data[at : at + 1 + seed % 100] = bytes(len(data[at : at + 1 + seed % 100]))
    return data


DAMAGE: dict[str, Callable[[bytearray, int, int], bytearray]] = {
    "flip": flip,
    "zero": zero,
    "cut": lambda data, at, seed: data[:at],
    "append": lambda data, at, seed: data + bytes([seed % 256, 0]),
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*DAMAGE, "delete"]), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_any_damage_is_named_and_mended(original: Path, kind: str, which: int, where: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(shutil.copytree(original.parent, Path(scratch) / "copy")) / "photos"
        index = photos.parent / ".llm2clip"
        expected = answers(index)
        files = index_files(index)
        path = files[which % len(files)]
        whole = path.read_bytes()
        if kind == "delete":
            path.unlink()
        else:
            path.write_bytes(DAMAGE[kind](bytearray(whole), where % len(whole), seed))
        kept = None if kind == "delete" else path.read_bytes()

        name = path.relative_to(index).as_posix()
        named = [file.path for file in verify_index(index).damaged]
        is_report = name in ("failures.parquet", "checked.json")  # nothing depends on them, and they have no checksum
        is_same = kept == whole or (name == "manifest.json" and kept is not None and kept.strip() == whole.strip())
        assert named == [name] or (named == [] and (is_report or is_same))

        given_now = answers_or_error(index)
        if named and name.endswith("metadata.parquet"):
            with pytest.raises(DamagedError, match=r"metadata\.parquet"):
                Filter(Snapshot(index)).ids("width > 1 AND path LIKE '%png'")
        if isinstance(given_now, Llm2ClipError):
            assert named, given_now
        else:
            assert given_now == expected

        done = repair(photos)
        found = {file.path for file in done.damaged}
        if any(name.startswith("tombstones") for name in named):
            assert found >= set(named)  # without them, other files seem wrong as well
        else:
            assert found == set(named)
        assert verify_index(index).damaged == ()
        if named and kept is not None:
            assert hashlib.sha256(kept).hexdigest() in digests(index)
        update(photos, ColourEncoder())
        check(photos, ColourEncoder())
        assert answers(index)[0] == expected[0]


def test_a_lost_shard_is_embedded_again_and_nothing_else_is(photos: Path) -> None:
    index = photos.parent / ".llm2clip"
    before = {row["path"]: row["id"] for row in Snapshot(index).metadata().to_pylist()}
    first = Snapshot(index).manifest.shards[0]
    in_first = {path for path, identifier in before.items() if identifier in set(Snapshot(index).shards[0].live_ids)}
    (index / "shards" / first.name / "embeddings.npy").write_bytes(b"")
    (photos / "5.png").unlink()
    photograph(50).save(photos / "new.png")  # is for the next index run
    encoder = ColourEncoder()
    done = repair_index(index, encoder=lambda: encoder)
    assert (done.lost, done.embedded, done.missing) == (len(in_first), len(in_first) - 1, ["photos/5.png"])
    assert encoder.embedded == done.embedded
    after = {row["path"]: row["id"] for row in Snapshot(index).metadata().to_pylist()}
    assert after.keys() == before.keys() - {"photos/5.png"}
    for path, identifier in after.items():
        if path in in_first:
            assert identifier not in before.values()  # nothing proves that the vector is the same
        else:
            assert identifier == before[path]
    assert pq.read_table(index / "failures.parquet").num_rows == 1
    photograph(5).save(photos / "5.png")  # the disk is mounted again
    assert repair(photos).embedded == 1
    assert not (index / "damaged" / "lost.parquet").exists()
    assert repair(photos).damaged == []


def test_sound_rows_of_a_container_stay_when_another_one_holds_the_same_image(tmp_path: Path) -> None:
    folder, index = tmp_path / "photos", tmp_path / ".llm2clip"
    folder.mkdir()
    for name, numbers in (("a.tar", (0, 1)), ("b.tar", (0,))):
        with tarfile.open(folder / name, "w") as archive:
            for number in numbers:
                photograph(number).save(tmp_path / f"{number}.png")
                archive.add(tmp_path / f"{number}.png", f"{number}.png")
    update(folder, ColourEncoder(), rows_per_commit=1)
    before = {path: row["id"] for path, row in rows(folder).items()}
    assert list(before) == ["photos/a.tar#0.png", "photos/a.tar#1.png", "photos/b.tar#0.png"]
    for shard in Snapshot(index).shards[1:]:
        (shard.folder / "embeddings.npy").write_bytes(b"")
    done = repair(folder)
    assert (done.lost, done.embedded, done.reused, done.missing) == (2, 1, 1, [])
    after = {path: row["id"] for path, row in rows(folder).items()}
    assert after.keys() == before.keys()
    assert after["photos/a.tar#0.png"] == before["photos/a.tar#0.png"]


def update_texts(folder: Path) -> None:
    """Index the text files of a folder into ``.llm2clip`` beside it."""
    index = folder.parent / ".llm2clip"
    known = Snapshot(index) if index.exists() else None
    [corpus] = open_sources([folder], known, SourceOptions(modality="text"), given=["modality"])
    index_corpus(corpus, encoder=ColourEncoder(), index=index)


def images_and_texts(folder: Path) -> dict[str, object]:
    """Two images and two texts in an index beside their folder; modality by path."""
    folder.mkdir(parents=True)
    for number in range(2):
        photograph(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"text number {number}")
    update(folder, ColourEncoder())
    update_texts(folder)
    return {path: row["modality"] for path, row in rows(folder).items()}


def lose_vectors(index: Path) -> None:
    for shard in Snapshot(index).shards:
        (shard.folder / "embeddings.npy").write_bytes(b"")


def test_lost_texts_and_lost_images_of_one_folder_are_embedded_again(tmp_path: Path) -> None:
    folder, index = tmp_path / "mixed", tmp_path / ".llm2clip"
    before = images_and_texts(folder)
    lose_vectors(index)
    done = repair(folder)
    assert (done.lost, done.embedded, done.missing, done.failures) == (4, 4, [], [])
    assert {path: row["modality"] for path, row in rows(folder).items()} == before
    update_texts(folder)
    assert update(folder, ColourEncoder()).total == 4


def test_a_list_of_lost_images_without_modality_is_read(tmp_path: Path) -> None:
    """As an earlier version wrote it."""
    photos = build(tmp_path)
    index = photos.parent / ".llm2clip"
    lose_vectors(index)
    shutil.move(photos, photos.with_name("away"))
    assert len(repair(photos).missing) == IMAGES
    path = index / "damaged" / "lost.parquet"
    pq.write_table(pq.read_table(path, columns=["path", "corpus"]), path)
    shutil.move(photos.with_name("away"), photos)
    assert repair(photos).embedded == IMAGES
    assert not path.exists()


def test_images_that_were_left_behind_are_embedded_again(tmp_path: Path) -> None:
    folder, index = tmp_path / "photos", tmp_path / "ssd" / "index"
    folder.mkdir()
    for number in range(4):
        photograph(number).save(folder / f"{number}.png")
    index.parent.mkdir()
    index_folder(folder, encoder=ColourEncoder(), index=folder / ".llm2clip")
    (folder / ".llm2clip").rename(index)
    lose_vectors(index)
    done = repair_index(index, encoder=ColourEncoder)
    assert (done.lost, done.embedded, done.missing) == (4, 4, [])
    assert index_folder(folder, encoder=ColourEncoder(), index=index).unchanged == 4


def test_the_list_of_lost_images_follows_the_folder(tmp_path: Path) -> None:
    photos = build(tmp_path)
    index = photos.parent / ".llm2clip"
    lose_vectors(index)
    away = photos.rename(photos.with_name("away"))
    assert len(repair(photos).missing) == IMAGES
    move_source(index, str(photos), str(away))
    assert update(away, ColourEncoder()).indexed == IMAGES
    done = repair(photos)
    assert (done.embedded, done.missing) == (0, [])
    assert not (index / "damaged" / "lost.parquet").exists()


@pytest.mark.parametrize("name", ["metadata.parquet", "rows.arrow"])
def test_a_twin_rebuilds_the_other_without_the_model(photos: Path, name: str) -> None:
    index = photos.parent / ".llm2clip"
    before = rows(photos)
    ids = Snapshot(index).live_ids.tolist()
    vectors = Snapshot(index).vectors(ids)
    for shard in (index / "shards").iterdir():
        (shard / name).unlink()

    def no_encoder() -> ColourEncoder:
        raise AssertionError("nothing is to be embedded")

    done = repair_index(index, encoder=no_encoder)
    assert (done.rebuilt, done.lost) == (IMAGES, 0)
    assert rows(photos) == before
    np.testing.assert_array_equal(Snapshot(index).vectors(ids), vectors)


def test_a_shard_that_has_gone_altogether_is_found_by_the_next_run(photos: Path) -> None:
    index = photos.parent / ".llm2clip"
    name = Snapshot(index).manifest.shards[0].name
    shutil.rmtree(index / "shards" / name)
    done = repair(photos)
    assert done.unnamed == done.lost > 0
    update(photos, ColourEncoder())
    check(photos, ColourEncoder())


def test_a_lost_manifest_is_made_of_the_shards(photos: Path) -> None:
    index = photos.parent / ".llm2clip"
    before, manifest = rows(photos), Manifest.read(index)
    (index / "manifest.json").unlink()
    with pytest.raises(DamagedError, match=r"manifest\.json cannot be read: no such file"):
        update(photos, ColourEncoder())  # a new manifest would have all shards swept away
    done = repair(photos)
    assert [file.path for file in done.damaged] == ["manifest.json"]
    assert rows(photos) == before
    made = Manifest.read(index)
    assert (made.model, made.dim, made.sources, made.live) == (manifest.model, 16, manifest.sources, IMAGES)
    assert made.next_id >= manifest.next_id
    assert update(photos, ColourEncoder()).indexed == 0


def test_damaged_tombstones_bring_back_what_only_they_knew(photos: Path) -> None:
    """A renamed and a changed image have a later row; a deleted one is back until the next run."""
    index = photos.parent / ".llm2clip"
    before, name = rows(photos), Manifest.read(index).tombstones
    assert name is not None
    (index / name).write_bytes(b"PAR1")
    done = repair(photos)
    assert done.revived == 1
    assert rows(photos).keys() == before.keys() | {"photos/2.png"}
    assert update(photos, ColourEncoder()).removed == 1
    assert {path: row["id"] for path, row in rows(photos).items()} == {path: row["id"] for path, row in before.items()}


@pytest.mark.parametrize(
    "victim",
    [
        "manifest.json",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("embeddings.npy", "metadata.parquet", "tombstones")),
    ],
)
def test_a_repair_that_dies_at_any_step_can_be_run_again(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """At every operation on the disk."""
    for step in range(400):
        photos = Path(shutil.copytree(original.parent, tmp_path / str(step))) / "photos"
        index = photos.parent / ".llm2clip"
        path = next(path for path in index_files(index) if path.name.startswith(victim))
        path.write_bytes(path.read_bytes()[:-9])
        damaged = path.read_bytes()
        with monkeypatch.context() as patch:
            cut_power_at(patch, step, late=False)
            try:
                repair(photos)
                break
            except PowerCutError:
                pass
        repair(photos)
        assert hashlib.sha256(damaged).hexdigest() in digests(index)
        assert verify_index(index).damaged == ()
        update(photos, ColourEncoder())
        check(photos, ColourEncoder())
    assert step > 9


def test_the_encoder_has_to_be_the_one_that_made_the_index(photos: Path) -> None:
    index = photos.parent / ".llm2clip"
    (index / "shards" / Snapshot(index).manifest.shards[0].name / "embeddings.npy").unlink()
    with pytest.raises(Llm2ClipError, match="was made by colours:16"):
        repair_index(index, encoder=lambda: ColourEncoder(dim=8))
    assert repair(photos).embedded > 0  # the list of lost images is still there


def test_a_full_disk_ends_a_run_with_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        photograph(number).save(folder / f"{number:02}.png")
    real = Committer.commit

    def commit(committer: Committer) -> None:
        with monkeypatch.context() as patch:
            if committer.writer.manifest.live == 8:
                cut_power_at(patch, 3, late=False, error=lambda: OSError(28, "No space left on device"))
            real(committer)

    with monkeypatch.context() as patch:
        patch.setattr(Committer, "commit", commit)
        with pytest.raises(Llm2ClipError, match="no space left on device; the 8 images committed so far are kept"):
            update(folder, ColourEncoder(), rows_per_commit=4)
    encoder = ColourEncoder()
    assert update(folder, encoder).unchanged == 8
    assert encoder.embedded == 4
    check(folder, encoder)
