"""Power cuts that are replayed from a log of operations, and the whole harness in a short run."""

import errno
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm2clip_search.benchmarks.perf.faults.crash_states import write_crash_state
from llm2clip_search.benchmarks.perf.faults.disk import Disk, Operation, Perform
from llm2clip_search.errors import EngineError, StoreError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Snapshot, Writer, verify_index
from llm2clip_search.store.published import check_published, index_identity
from llm2clip_search.vectorindex.serving.state import Published
from tests.support.stores import MODEL, fill, live, row, vectors

INDEX = ".llm2clip"


def recorded(base: Path, log: list[Operation]) -> Disk:
    """A disk that notes what is done below a folder."""

    def note(operation: Operation, perform: Perform) -> Any:
        result = perform(operation.data)
        log.append(operation)
        return result

    return Disk(base, note, under=INDEX, but=f"{INDEX}/readers")


def test_a_log_that_is_replayed_gives_the_same_files(tmp_path: Path) -> None:
    before, base = tmp_path / "before", tmp_path / "base"
    before.mkdir()
    base.mkdir()
    log: list[Operation] = []
    with recorded(base, log).watched():
        fill(base / INDEX, 0, 1)
        with Writer.open(base / INDEX, model=MODEL, dim=4) as writer:
            writer.commit([row(1, "moved.jpg"), row(2)], vectors(1, 2), removed=[0])
    write_crash_state(before, log, tmp_path / "after", random.Random(0), share=1.0)
    files = {path.relative_to(base): path.read_bytes() for path in base.rglob("*") if path.is_file()}
    again = tmp_path / "after"
    assert {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()} == files
    assert {operation.kind for operation in log} >= {"create", "write", "fsync", "rename", "unlink", "mkdir"}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_a_commit_has_returned_for_survives_a_power_cut(tmp_path: Path, share: float) -> None:
    """The very first commit as well, whose folders are new."""
    before, base = tmp_path / "before", tmp_path / "base"
    before.mkdir()
    base.mkdir()
    log: list[Operation] = []
    with recorded(base, log).watched(), Writer.open(base / INDEX, model=MODEL, dim=4) as writer:
        writer.commit([row(0), row(1)], vectors(0, 1))
        ends = [len(log)]
        writer.commit([row(1, "moved.jpg"), row(2)], vectors(1, 2), removed=[0])
        ends.append(len(log))
    states = [{0: "0.jpg", 1: "1.jpg"}, {1: "moved.jpg", 2: "2.jpg"}]
    for end, state in zip(ends, states, strict=True):
        for seed in range(5):
            after = tmp_path / f"{end}-{seed}"
            write_crash_state(before, log[:end], after, random.Random(seed), share=share)
            assert live(after / INDEX) == state
            assert verify_index(after / INDEX, full=True).damaged == ()


def failing(folder: Path, kind: str, code: int) -> Disk:
    """A disk on which one kind of operation fails."""

    def fail(operation: Operation, perform: Perform) -> Any:
        if operation.kind == kind:
            raise OSError(code, os.strerror(code))
        return perform(operation.data)

    return Disk(folder, fail, under=INDEX, but=f"{INDEX}/readers")


def test_an_index_does_not_change_its_name_because_the_disk_failed(tmp_path: Path) -> None:
    """What was published under another name could not be brought up to date."""
    fill(tmp_path / INDEX, 0)
    with (
        failing(tmp_path, "write", errno.EIO).watched(),
        pytest.raises(StoreError, match="identity cannot be written: input/output error"),
    ):
        index_identity(tmp_path / INDEX)
    with failing(tmp_path, "write", errno.EACCES).watched():
        name = index_identity(tmp_path / INDEX)
    snapshot = Snapshot(tmp_path / INDEX)
    state = Published(
        index=name,
        folder=str(snapshot.folder),
        model=MODEL,
        dim=4,
        dtype="float16",
        base="",
        generation=1,
        next_id=1,
        rows=1,
        sources=(),
        columns=(),
        shards={},
    )
    assert name != index_identity(snapshot.folder) == index_identity(snapshot.folder)
    check_published(snapshot, state, "collection")
    with pytest.raises(EngineError, match="collection holds another index"):
        check_published(snapshot, replace(state, index="0" * 32), "collection")


def test_an_approximate_index_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    config = AnnConfig(kind="hnsw")
    with Writer.open(tmp_path / INDEX, model=MODEL, dim=4) as writer:
        writer.commit([row(number) for number in range(40)], vectors(*range(40)))
        build_ann(writer, config)
        with (
            failing(tmp_path, "open", errno.EMFILE).watched(),
            pytest.raises(StoreError, match=r"\.faiss cannot be read: too many open files"),
        ):
            build_ann(writer, config)
        assert build_ann(writer, config) == writer.manifest.ann


@pytest.mark.slow
def test_the_harness_loses_nothing(tmp_path: Path) -> None:
    """Forks need a process without threads, so it is one of its own."""
    counts = ("--kills", "12", "--errors", "24", "--power-cuts", "24", "--clock-jumps", "12", "--damages", "24")
    command = [sys.executable, "-m", "llm2clip_search.benchmarks.perf.faults", *counts, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    tallies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["faults"] for each in tallies] == [[]] * 6, done.stderr
    assert all(each["trials"] >= 12 for each in tallies)
    assert done.returncode == 0
