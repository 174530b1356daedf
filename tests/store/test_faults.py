"""Disks that are full, fail or may not be written: one sentence, and the last commit as it was."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.errors import DamagedError, StoreError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Snapshot, Writer, find_index
from llm2clip_search.store.faults import unreadable
from tests.support.faults import cut_power_at
from tests.support.stores import MODEL, check_intact, fill, live, row, vectors
from tests.support.vectors import DIM, add, clustered


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS])
def test_an_error_of_any_write_is_a_sentence_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Each operation on the disk in turn; the same writer goes on when there is room again."""
    for step in range(100):
        folder = tmp_path / str(step)
        fill(folder, 0, 1)
        with Writer.open(folder, model=MODEL, dim=4) as writer:
            with monkeypatch.context() as patch:
                cut_power_at(patch, step, late=False, error=lambda: OSError(code, os.strerror(code)))
                try:
                    writer.commit([row(1, "moved.jpg"), row(2)], vectors(1, 2), removed=[0])
                    break
                except StoreError as error:
                    message, hint = str(error), error.hint
            assert f"{os.strerror(code).lower()}; the 2 images committed so far are kept." in message
            assert message.startswith(f"{folder}/")
            assert bool(hint) == (code != errno.EIO)
            assert list(folder.rglob("*.tmp")) == []  # what was written does not fill the disk
            if (folder / "manifest.json").read_text().count('"generation": 1'):
                assert live(folder) == {0: "0.jpg", 1: "1.jpg"}
            writer.commit([row(1, "moved.jpg"), row(2)], vectors(1, 2), removed=[0])
        assert live(folder) == {1: "moved.jpg", 2: "2.jpg"}
        check_intact(Snapshot(folder))
    assert step > 8


def test_an_approximate_index_that_does_not_fit_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAISS says the cause in its message only."""
    import faiss

    def full(_index: object, path: str) -> None:
        raise RuntimeError(f"Error in write_index: write error in {path}: 3 != 9 (No space left on device)")

    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 300))
        with monkeypatch.context() as patch:
            patch.setattr(faiss, "write_index", full)
            with pytest.raises(StoreError, match=r"faiss.* no space left on device; the 300 images committed so far"):
                build_ann(writer, AnnConfig(kind="hnsw"))
        assert writer.manifest.ann is None
        assert build_ann(writer, AnnConfig(kind="hnsw")) is not None
    check_intact(Snapshot(tmp_path))


def test_what_is_no_folder_of_an_index_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".llm2clip").write_text("a file")
    with pytest.raises(StoreError, match="There is no index in"):
        find_index(tmp_path)
    with pytest.raises(StoreError, match="is a file, not the folder of an index"):
        Snapshot(tmp_path / ".llm2clip")
    with (
        pytest.raises(StoreError, match="is a file, not the folder of an index"),
        Writer.open(tmp_path / ".llm2clip", model=MODEL, dim=4),
    ):
        pass


def test_an_index_that_vanishes_while_it_is_written_is_a_sentence(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "i"
    fill(folder, 0)
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        shutil.rmtree(folder)
        with pytest.raises(StoreError, match="cannot be written: no such file or directory"):
            writer.commit([row(1)], vectors(1))


def test_a_manifest_is_never_started_over_shards(tmp_path: Path) -> None:
    """A new one would have the writer sweep them away; the folder still counts as an index."""
    folder = tmp_path / ".llm2clip"
    fill(folder, 0, 1)
    (folder / "manifest.json").unlink()
    assert find_index(tmp_path) == folder
    with pytest.raises(DamagedError, match=r"manifest\.json cannot be read"), Writer.open(folder, model=MODEL, dim=4):
        pass
    assert (folder / "shards" / "000001" / "embeddings.npy").exists()


@pytest.mark.parametrize(
    ("error", "is_damage"),
    [
        (FileNotFoundError(errno.ENOENT, "x"), True),
        (OSError(errno.EIO, "x"), True),
        (OSError("Couldn't deserialize thrift"), True),
        (PermissionError(errno.EACCES, "x"), False),
        (OSError(errno.EMFILE, "x"), False),
    ],
)
def test_what_cannot_be_reached_is_not_called_damaged(error: OSError, is_damage: bool) -> None:
    found = unreadable(Path("shard"), error)
    assert isinstance(found, DamagedError) == is_damage
    assert ("repair" in found.hint) == is_damage


@pytest.mark.filterwarnings("ignore:Reading")
def test_any_bit_of_the_header_of_vectors(tmp_path: Path) -> None:
    """numpy parses it as Python and raises what Python's parser does."""
    folder = tmp_path / "i"
    fill(folder, 0, 1, 2)
    path = folder / "shards" / "000001" / "embeddings.npy"
    whole = path.read_bytes()
    found = 0
    for at in range(len(whole) - 3 * 4 * 2):
        for bit in range(0, 8, 3):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                np.testing.assert_array_equal(Snapshot(folder).vectors([0, 1, 2]), vectors(0, 1, 2))
            except DamagedError:
                found += 1
    assert found > 300
