"""Power cuts that are replayed from a log of operations, and the whole harness in a short run."""

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm2clip_search.benchmarks.perf.faults.crash_states import write_crash_state
from llm2clip_search.benchmarks.perf.faults.disk import Disk, Operation, Perform
from llm2clip_search.errors import StoreError
from llm2clip_search.store import Manifest, Writer, verify_index
from llm2clip_search.store.published import index_identity
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


def test_an_index_does_not_change_its_name_because_the_disk_failed(tmp_path: Path) -> None:
    """What was published under another name could not be brought up to date."""
    fill(tmp_path / INDEX, 0)

    def fail(operation: Operation, perform: Perform) -> Any:
        if operation.kind == "write":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return perform(operation.data)

    with (
        Disk(tmp_path, fail, under=INDEX, but=f"{INDEX}/readers").watched(),
        pytest.raises(StoreError, match="identity cannot be written: input/output error"),
    ):
        index_identity(tmp_path / INDEX)
    assert index_identity(tmp_path / INDEX) == index_identity(tmp_path / INDEX)
    assert Manifest.read(tmp_path / INDEX).live == 1


@pytest.mark.slow
def test_the_harness_loses_nothing(tmp_path: Path) -> None:
    """Forks need a process without threads, so it is one of its own."""
    counts = ("--kills", "12", "--errors", "24", "--power-cuts", "24", "--damages", "24")
    command = [sys.executable, "-m", "llm2clip_search.benchmarks.perf.faults", *counts, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    tallies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["faults"] for each in tallies] == [[]] * 5, done.stderr
    assert all(each["trials"] >= 12 for each in tallies)
    assert done.returncode == 0
