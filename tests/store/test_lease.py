"""A reader's files outlive later commits, and are removed when the reader is gone."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.engine import SearchIndex
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Snapshot, Writer
from llm2clip_search.store.lease import oldest_lease
from tests.support.stores import MODEL as STORE_MODEL
from tests.support.stores import check_intact, fill, live
from tests.support.vectors import DIM, MODEL, add, clustered

HNSW = AnnConfig(kind="hnsw")


def grow(folder: Path, seed: int, rows: int = 200) -> None:
    """One index run: new vectors, and the approximate index brought in step."""
    with Writer.open(folder, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(seed, rows), removed=())
        build_ann(writer, HNSW)


def test_an_open_reader_loads_its_approximate_index_after_later_runs(tmp_path: Path) -> None:
    """It is loaded at the first approximate search, which may come hours after the index was opened."""
    grow(tmp_path, 1)
    snapshot = Snapshot(tmp_path)
    assert snapshot.ann_path is not None
    for seed in (2, 3, 4):
        grow(tmp_path, seed)
    assert Snapshot(tmp_path).manifest.generation > snapshot.manifest.generation
    query = clustered(1, 200)[:1].astype(np.float32)
    _, found = SearchIndex(snapshot).search(query, k=3)
    assert found[0, 0] == 0
    assert len(SearchIndex(snapshot)) == 200


def test_replaced_files_go_once_no_reader_needs_them(tmp_path: Path) -> None:
    grow(tmp_path, 1)
    snapshot = Snapshot(tmp_path)
    held = snapshot.ann_path
    assert held is not None
    assert oldest_lease(tmp_path) == snapshot.manifest.generation
    grow(tmp_path, 2)
    grow(tmp_path, 3)
    assert held.is_file()
    del snapshot
    gc.collect()
    assert oldest_lease(tmp_path) is None
    grow(tmp_path, 4)
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        assert writer.manifest.ann is not None
        assert [path.name for path in (tmp_path / "ann").iterdir()] == [writer.manifest.ann.name]
    assert list((tmp_path / "readers").iterdir()) == []


def test_leftovers_of_a_killed_writer_go_even_while_a_reader_is_open(tmp_path: Path) -> None:
    """They would be in the way of the commit that takes their number."""
    fill(tmp_path, 0)
    snapshot = Snapshot(tmp_path)
    fill(tmp_path, 1)
    number = Snapshot(tmp_path).manifest.next_shard
    leftover = tmp_path / "shards" / f"{number:06d}"
    leftover.mkdir()
    (leftover / "embeddings.npy").touch()
    fill(tmp_path, 2)
    assert live(tmp_path) == {0: "0.jpg", 1: "1.jpg", 2: "2.jpg"}
    assert len(snapshot.live_ids) == 1


def test_a_reader_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    code = f"""
from pathlib import Path
from llm2clip_search.store import Snapshot
snapshot = Snapshot(Path({str(tmp_path)!r}))
print("open", flush=True)
import time; time.sleep(60)
"""
    reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        assert oldest_lease(tmp_path) == 1
    finally:
        reader.kill()
        reader.wait()
    assert oldest_lease(tmp_path) is None


def test_an_index_in_a_read_only_folder_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lease: its owner's writer is trusted not to run at the same time."""
    fill(tmp_path, 0)

    def refuse(self: Path, **options: object) -> None:
        raise PermissionError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        assert len(Snapshot(tmp_path).live_ids) == 1
    assert not (tmp_path / "readers").exists()


def test_a_lease_of_another_user_does_not_keep_a_writer_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a query that ran with more rights leaves one: its folder allows nobody else to remove it."""
    fill(tmp_path, 0)
    snapshot = Snapshot(tmp_path)
    del snapshot
    gc.collect()
    [left] = (tmp_path / "readers").iterdir()
    unlink = Path.unlink

    def refuse(self: Path, *, missing_ok: bool = False) -> None:
        if self == left:
            raise PermissionError(13, "Permission denied", str(self))
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert oldest_lease(tmp_path) is None
        fill(tmp_path, 1)
    assert live(tmp_path) == {0: "0.jpg", 1: "1.jpg"}
    assert left.exists()


def test_a_lease_is_removed_while_nobody_can_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader in between would hold a file that is gone, and the writer would remove what it reads."""
    import fcntl

    fill(tmp_path, 0)
    Snapshot(tmp_path)
    gc.collect()
    [left] = (tmp_path / "readers").iterdir()
    unlink, taken = Path.unlink, list[bool]()

    def watched(self: Path, *, missing_ok: bool = False) -> None:
        with self.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                taken.append(True)
            except BlockingIOError:
                taken.append(False)
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", watched)
        assert oldest_lease(tmp_path) is None
    assert taken == [False]
    assert not left.exists()


def test_a_lease_can_be_looked_at_by_other_users(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    before = os.umask(0o077)
    try:
        snapshot = Snapshot(tmp_path)
    finally:
        os.umask(before)
    [lease] = (tmp_path / "readers").iterdir()
    assert lease.stat().st_mode & 0o777 == 0o666
    assert oldest_lease(tmp_path) == snapshot.manifest.generation


def test_a_lease_that_cannot_be_opened_counts_as_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a reader's with other rights; what it reads stays."""
    fill(tmp_path, 0)
    snapshot = Snapshot(tmp_path)

    def refuse(*arguments: object, **options: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert oldest_lease(tmp_path) == snapshot.manifest.generation


def test_readers_open_while_a_writer_commits(tmp_path: Path) -> None:
    """Every snapshot has the files of its own generation, whenever it was opened."""
    with Writer.open(tmp_path, model=STORE_MODEL, dim=4):
        pass
    done = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        while not done.is_set():
            try:
                snapshot = Snapshot(tmp_path)
                assert len(snapshot.live_ids) == snapshot.manifest.live
                check_intact(snapshot)
            except BaseException as error:
                errors.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for identifier in range(25):
            fill(tmp_path, identifier)
            with Writer.open(tmp_path, model=STORE_MODEL, dim=4) as writer:
                writer.commit(removed=[identifier])
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert errors == []
