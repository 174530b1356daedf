"""What holds for every kind of source: unchanged items are not read, only changes cost, and kills lose nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from llm2clip_search.corpora.containers import container_for
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder
from tests.support.kinds import KINDS, Kind, rows
from tests.support.reads import note_reads
from tests.support.stores import check_intact

FIRST = {f"a{number:02d}": number for number in range(40)}
LATER = (
    {f"a{number:02d}": number + 100 for number in range(10)}  # changed
    | {f"b{number:02d}": number for number in range(10, 20)}  # moved
    | {f"a{number:02d}": number for number in range(30, 40)}  # as they were; 20 to 29 are removed
)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    reader = container_for(found.pattern)
    if reader is not None and reader.extra:
        pytest.skip(f"{found.pattern} needs the extra [{reader.extra}]")
    return found


@pytest.fixture
def place(kind: Kind, tmp_path: Path) -> Iterator[str]:
    with kind.place(tmp_path / "source") as found:
        yield found


def test_a_second_run_reads_no_item(kind: Kind, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, read = ColourEncoder(), note_reads(monkeypatch)
    kind.write(tmp_path / "source", FIRST)
    first = kind.index(place, tmp_path / "i", encoder)
    assert (first.indexed, first.failures, encoder.embedded) == (40, [], 40)
    assert [each for each in read if kind.read in each]
    read.clear()
    second = kind.index(place, tmp_path / "i", encoder)
    assert (second.indexed, second.unchanged, second.total, encoder.embedded) == (0, 40, 40, 40)
    assert [each for each in read if kind.read in each] == []


def test_ten_changed_ten_moved_and_ten_removed_cost_ten_embeddings(kind: Kind, place: str, tmp_path: Path) -> None:
    encoder = ColourEncoder()
    kind.write(tmp_path / "source", FIRST)
    kind.index(place, tmp_path / "i", encoder)
    kind.write(tmp_path / "source", LATER)
    done = kind.index(place, tmp_path / "i", encoder)
    assert (done.indexed, done.total, encoder.embedded) == (10, 30, 50)
    kind.index(place, tmp_path / "fresh", encoder)
    assert rows(tmp_path / "i") == rows(tmp_path / "fresh")


RUNS = """
import os, sys, time
from pathlib import Path
from tests.support.encoders import ColourEncoder
from tests.support.kinds import KINDS
import llm2clip_search.indexers.ann, pyarrow.parquet, pyarrow.compute
[kind] = [kind for kind in KINDS if kind.name == sys.argv[1]]
for line in sys.stdin:  # each run is a fork of a process that has imported everything and started no thread
    child = os.fork()
    if child == 0:
        kind.index(sys.argv[2], Path(line.strip()), ColourEncoder(), rows_per_commit=3)
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


@pytest.mark.slow
def test_runs_killed_at_any_instant_lose_nothing(kind: Kind, place: str, tmp_path: Path) -> None:
    kind.write(tmp_path / "source", FIRST)
    words = [sys.executable, "-c", RUNS, kind.name, place]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def run(index: Path, seconds: float | None = None) -> int:
        """How a run ends that is killed after some seconds: as of `os.waitpid`."""
        process.stdin.write(f"{index}\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        child = int(process.stdout.readline())  # type: ignore[union-attr]
        if seconds is not None:
            time.sleep(seconds)
            with suppress(ProcessLookupError):  # it was done before
                os.kill(child, signal.SIGKILL)
        return int(process.stdout.readline())  # type: ignore[union-attr]

    try:
        assert run(tmp_path / "warm") == 0
        started = time.perf_counter()
        assert run(tmp_path / "whole") == 0
        whole = time.perf_counter() - started
        killed, random_ = 0, random.Random(18)
        while killed < 20:
            index = tmp_path / f"i{killed // 5}"  # four indices, each killed five times on its way
            killed += run(index, random_.uniform(0.0, 0.6 * whole)) == signal.SIGKILL
        for number in range(4):
            index = tmp_path / f"i{number}"
            assert run(index) == 0
            check_intact(Snapshot(index))
            assert rows(index) == rows(tmp_path / "whole")
    finally:
        process.stdin.close()
        process.wait()
