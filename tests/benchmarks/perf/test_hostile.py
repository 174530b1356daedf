"""Tampered files are rows or failures, and hostile conditions read, write and break nothing."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.benchmarks.perf.hostile import hostile_files, index_hostile
from llm2clip_search.benchmarks.perf.hostile_conditions import attack_conditions
from llm2clip_search.benchmarks.perf.hostile_mutations import mutated
from llm2clip_search.benchmarks.perf.hostile_seeds import container_seeds, image_seeds
from llm2clip_search.corpora.files import LocalFiles
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.table import TableContainer
from llm2clip_search.encoders.reading import reading
from llm2clip_search.errors import ImageError
from llm2clip_search.store import Snapshot
from tests.support.stores import fill
from tests.support.tables import container


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_seeds_are_sound_and_most_tampered_files_are_not() -> None:
    seeds = list(image_seeds())
    assert len({extension for extension, _ in seeds}) >= 14
    outcomes: Counter[str] = Counter()
    for _, data in seeds:
        with reading(data) as picture:
            assert picture.damage is None
    for _, data in hostile_files(200, seeds, seed=1):
        try:
            with reading(data, max_pixels=1_000_000):
                outcomes["read"] += 1
        except ImageError:
            outcomes["failed"] += 1
    assert min(outcomes["read"], outcomes["failed"]) > 20


def test_the_same_seed_gives_the_same_file() -> None:
    for extension, data in [*image_seeds(), *container_seeds()]:
        first, second = (mutated(data, extension, [data], np.random.default_rng(3)) for _ in range(2))
        assert first == second


def test_tables_among_the_seeds_have_images(tmp_path: Path) -> None:
    """A table without any is refused before its rows are read, however it was tampered with."""
    tables = [(name, data) for name, data in container_seeds() if name in ("parquet", "arrow", "csv", "jsonl")]
    assert {name for name, _ in tables} == {"parquet", "arrow", "csv", "jsonl"}
    for number, (name, data) in enumerate(tables):
        path = tmp_path / f"{number}.{name}"
        path.write_bytes(data)
        items = list(TableContainer().parts(LocalFiles(), container(path), SourceOptions()))
        assert len(items) >= 3
        for item in items:
            with reading(TableContainer().open(LocalFiles(), item, SourceOptions())) as read:
                assert read.damage is None


@pytest.mark.slow
@pytest.mark.parametrize("isolate", [True, False])
def test_every_tampered_image_is_a_row_or_a_failure(isolate: bool) -> None:
    outcome = index_hostile("images", hostile_files(1000, list(image_seeds()), seed=2), isolate=isolate)
    assert (outcome.files, outcome.missing, outcome.crashes, outcome.hangs) == (1000, 0, 0, 0)
    assert outcome.rows + outcome.failures == 1000
    assert outcome.peak_bytes < 1 << 30


def test_conditions_read_write_and_break_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "index", *range(20))
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    outcome = attack_conditions(Snapshot(tmp_path / "index"), folder)
    assert outcome.attacks >= 200
    assert (outcome.read, outcome.written, outcome.crashes) == (0, 0, 0)
    assert outcome.refused >= 260


def test_no_name_leads_elsewhere() -> None:
    """In a process with a bound on its memory: a name that gets through may be that of ``/dev/zero``."""
    command = [sys.executable, "-m", "llm2clip_search.benchmarks.perf.hostile", "--images", "0", "--containers", "0"]
    done = subprocess.run([*command, "--no-conditions"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["attacks"] >= 800
    assert outcome["refused"] + outcome["contained"] == outcome["attacks"]
    assert [outcome[what] for what in ("escaped", "read", "written", "crashes")] == [0, 0, 0, 0]
