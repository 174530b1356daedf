"""A writer that dies at any of its steps on the disk, and files that are lost or damaged afterwards."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llm2clip_search.base import checksums
from llm2clip_search.errors import StoreError
from llm2clip_search.store import Snapshot, Writer
from llm2clip_search.store.schema import Failure
from tests.support.faults import PowerCutError, cut_power_at
from tests.support.stores import MODEL, check_intact, fill, live, row, vectors

BEFORE = {0: "0.jpg", 1: "1.jpg"}
AFTER = {1: "moved.jpg", 2: "2.jpg"}


def commit(folder: Path) -> None:
    """A shard, a moved row and a deletion in one step."""
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        writer.commit([row(1, "moved.jpg"), row(2)], vectors(1, 2), removed=[0])


@pytest.mark.parametrize("late", [False, True])
def test_death_at_every_step_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Each step in turn, until the commit gets through; the next writer sweeps up and goes on."""
    monkeypatch.setattr(checksums, "TICK_NS", 1 << 62)  # or the number of steps would depend on the clock
    states = []
    for step in range(100):
        folder = tmp_path / str(step)
        fill(folder, 0, 1)
        with monkeypatch.context() as patch:
            cut_power_at(patch, step, late=late)
            try:
                commit(folder)
                break
            except PowerCutError:
                pass
        check_intact(Snapshot(folder))
        states.append(live(folder))
        assert states[-1] in (BEFORE, AFTER), step
        fill(folder, 9)
        assert live(folder) == states[-1] | {9: "9.jpg"}
        manifest = Snapshot(folder).manifest
        assert {path.name for path in (folder / "shards").iterdir()} == {entry.name for entry in manifest.shards}
        assert [path.name for path in folder.glob("tombstones-*")] == [manifest.tombstones] * bool(manifest.dead)
        assert list(folder.glob("*.tmp")) == []
    assert len(states) > 12  # parquet, vectors, flushes, renames, tombstones, manifest
    assert states == sorted(states, key=lambda state: state == AFTER)  # once new, never old again
    assert live(tmp_path / str(len(states))) == AFTER


def test_the_lock_of_another_process_is_named_and_dies_with_it(tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.store.test_store import Writer
from tests.support.stores import MODEL
with Writer.open(Path({str(tmp_path / "i")!r}), model=MODEL, dim=4):
    print("open", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with (
            pytest.raises(StoreError, match=f"is being written by process {process.pid} on .* since"),
            Writer.open(tmp_path / "i", model=MODEL, dim=4),
        ):
            pass
        Snapshot(tmp_path / "i")  # readers need no lock
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    fill(tmp_path / "i", 0)
    assert live(tmp_path / "i") == {0: "0.jpg"}


def test_lost_and_damaged_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    fill(folder, 0, 1)
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        writer.commit(removed=[0])
    tombstones = folder / "tombstones-00000002.parquet"
    unusable = " (cannot be read|differs)"
    uses: list[tuple[Path, Callable[[Snapshot], Any], str]] = [
        (
            folder / "shards" / "000001" / "embeddings.npy",
            lambda s: s.vectors([1]),
            r"embeddings\.npy" + unusable,
        ),
        (
            folder / "shards" / "000001" / "metadata.parquet",
            lambda s: s.rows([1]),
            r"metadata\.parquet" + unusable,
        ),
        (folder / "shards" / "000001" / "rows.arrow", lambda s: s.rows([1]), r"rows\.arrow" + unusable),
        (tombstones, lambda s: s.live_ids, r"tombstones-00000002\.parquet" + unusable),
    ]
    for path, use, message in uses:
        whole = path.read_bytes()
        for damage in (None, b"", whole[: len(whole) // 2]):
            path.unlink() if damage is None else path.write_bytes(damage)
            with pytest.raises(StoreError, match=message):
                use(Snapshot(folder))
        path.write_bytes(whole)
    flipped = bytearray(whole)
    flipped[20] ^= 1
    tombstones.write_bytes(flipped)
    with pytest.raises(StoreError, match=r"tombstones-00000002\.parquet differs from what was committed"):
        Snapshot(folder)


def test_a_damaged_list_of_failures_is_told(tmp_path: Path) -> None:
    with Writer.open(tmp_path / "i", model=MODEL, dim=4) as writer:
        (tmp_path / "i" / "failures.parquet").write_bytes(b"PAR1")
        with pytest.raises(StoreError, match=r"failures\.parquet cannot be read"):
            writer.record_failures([Failure(path="x", stage="read", reason="r")], under=".")
        (tmp_path / "i" / "failures.parquet").unlink()
        writer.record_failures([Failure(path="x", stage="read", reason="r")], under=".")
    assert pq.read_table(tmp_path / "i" / "failures.parquet").num_rows == 1


def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    """Not even after everything that had them is gone."""
    folder = tmp_path / "i"
    fill(folder, 0, 1, 2)
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        writer.commit(removed=[0, 1, 2])
    assert len(Snapshot(folder).live_ids) == 0
    assert Snapshot(folder).metadata().num_rows == 0
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        assert list(writer.allocate(2)) == [3, 4]
        writer.commit(removed=[0, 77])  # long gone, and never there
        assert (writer.manifest.live, writer.manifest.dead) == (0, 3)


def test_a_path_with_dots_leads_to_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the same files would have other names in it, and be indexed twice."""
    (tmp_path / "elsewhere").mkdir()
    fill(tmp_path / "i", 0)
    monkeypatch.chdir(tmp_path / "elsewhere")
    snapshot = Snapshot(Path("../i"))
    assert snapshot.base == tmp_path
    assert snapshot.stored("../images/x.jpg") == "images/x.jpg"
    assert snapshot.stored("/other/x.jpg") == "/other/x.jpg"
    assert snapshot.is_under("images/x.jpg", snapshot.stored("../images"))
    assert not snapshot.is_under("images2/x.jpg", "images")
    with Writer.open(Path("../i"), model=MODEL, dim=4) as writer:
        assert writer.snapshot.folder == tmp_path / "i"
