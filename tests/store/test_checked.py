"""Files are compared with their checksums when they are first used, and again only if they have changed."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search import merge_indices
from llm2clip_search.base.checksums import TICK_NS
from llm2clip_search.engine.filter import Filter
from llm2clip_search.errors import DamagedError
from llm2clip_search.store import Manifest, Snapshot, Writer, verify_index
from llm2clip_search.store.compaction import compact
from tests.support.stores import MODEL, fill, live, vectors


def settle() -> None:
    """Let files become old enough to be remembered: their times have steps."""
    time.sleep(2 * TICK_NS / 1e9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of two shards whose files are all known to be sound."""
    fill(tmp_path / "i", 0, 1)
    fill(tmp_path / "i", 2, 3)
    settle()
    assert verify_index(tmp_path / "i").damaged == ()
    return tmp_path / "i"


def damage(path: Path, at: int = -1) -> None:
    """Change one bit, and set the time of the last change back."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def decay(folder: Path, path: Path) -> None:
    """Change one bit in a way that the file system does not notice."""
    damage(path)
    known = json.loads((folder / "checked.json").read_text())
    name, changed = path.relative_to(folder).as_posix(), path.stat()
    known[name] = [known[name][0], changed.st_size, changed.st_mtime_ns, changed.st_ctime_ns]
    (folder / "checked.json").write_text(json.dumps(known))


def test_a_file_that_has_not_changed_is_not_read_again(folder: Path) -> None:
    found = verify_index(folder)
    assert (found.files, found.read, found.full) == (7, 1, False)  # the list of failures has no checksum
    assert verify_index(folder, full=True).read == 7
    os.utime(folder / "shards" / "000001" / "embeddings.npy")
    assert verify_index(folder).read == 2


@pytest.mark.parametrize("name", ["embeddings.npy", "metadata.parquet", "rows.arrow"])
def test_a_changed_bit_is_refused_before_it_is_used(folder: Path, name: str) -> None:
    damage(folder / "shards" / "000001" / name)
    snapshot = Snapshot(folder)
    uses: dict[str, Callable[[], object]] = {
        "embeddings.npy": lambda: snapshot.vectors([0]),
        "metadata.parquet": lambda: Filter(snapshot).ids("width = 3"),
        "rows.arrow": lambda: snapshot.rows([0]),
    }
    with pytest.raises(DamagedError, match=f"{name} differs from what was committed"):
        uses[name]()
    assert [file.path for file in verify_index(folder).damaged] == [f"shards/000001/{name}"]


def test_a_copy_is_compared_once(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    settle()
    assert verify_index(copy).read == 7
    assert verify_index(copy).read == 1
    np.testing.assert_array_equal(Snapshot(copy).vectors([0, 3]), vectors(0, 3))


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"shards/000001/embeddings.npy": 3}', '{"x": ["y", "z"]}'])
def test_without_what_is_known_files_are_compared_again(folder: Path, content: str | None) -> None:
    known = folder / "checked.json"
    known.unlink() if content is None else known.write_text(content)
    assert Snapshot(folder).rows([2])[0]["path"] == "2.jpg"
    assert verify_index(folder).damaged == ()
    assert live(folder).keys() == {0, 1, 2, 3}


def test_decay_is_found_in_full_and_is_not_merged(folder: Path) -> None:
    """A merged shard has a checksum of its own, which would fit the damage."""
    decay(folder, folder / "shards" / "000001" / "embeddings.npy")
    assert verify_index(folder).damaged == ()
    assert [file.path for file in verify_index(folder, full=True).damaged] == ["shards/000001/embeddings.npy"]
    with (
        pytest.raises(DamagedError, match=r"embeddings\.npy differs from what was committed"),
        Writer.open(folder, model=MODEL, dim=4) as writer,
    ):
        compact(writer, everything=True)
    assert len(Manifest.read(folder).shards) == 2


@pytest.mark.parametrize("name", ["embeddings.npy", "metadata.parquet"])
def test_decay_is_not_copied_into_a_merged_index(folder: Path, tmp_path: Path, name: str) -> None:
    decay(folder, folder / "shards" / "000002" / name)
    with pytest.raises(DamagedError, match=f"{name} differs from what was committed"):
        merge_indices(tmp_path / "out", [folder])
    assert not (tmp_path / "out").exists()
