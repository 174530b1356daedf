"""The feeding benchmark on a few runs: files and rows stay bounded, and what it refuses."""

import json
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.perf.feeding import benchmark_feeding
from tests.support.commands import RunCli, is_one_error
from tests.support.encoders import ColourEncoder


@pytest.mark.slow
def test_an_index_that_is_fed_often_stays_small() -> None:
    after = {fed.runs: fed for fed in benchmark_feeding(ColourEncoder(), [10, 80])}
    assert [fed.images for fed in after.values()] == [10, 80]
    assert after[80].shards <= 16
    assert after[80].files <= after[10].files + 3 * 14
    assert after[80].dead <= 80
    assert all(fed.descriptors in (None, 1) for fed in after.values()), "the lease alone"
    assert min(fed.run_ms for fed in after.values()) > 0


def test_the_command_prints_a_line_for_each_count(run_cli: RunCli, tiny_model: Path) -> None:
    model = ("--model", f"dir:{tiny_model}")
    done = run_cli("bench", "feeding", "--runs", "1,3", "--json", *model)
    assert [json.loads(line)["images"] for line in done.stdout.splitlines()] == [1, 3]
    table = run_cli("bench", "feeding", "--runs", "2", *model)
    assert [line.split()[:2] for line in table.stdout.splitlines()] == [["runs", "images"], ["2", "2"]]


@pytest.mark.parametrize("runs", ["", "0", "3,2", "2,2", "few"])
def test_counts_that_cannot_be_are_one_sentence(run_cli: RunCli, runs: str) -> None:
    done = run_cli("bench", "feeding", "--runs", runs)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_error(done.stderr)
