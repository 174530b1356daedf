"""The simulated engine against what can be computed without simulating."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from llm2clip_search.benchmarks.perf.simulated_serving import (
    ServingCase,
    bytes_per_row,
    shard_ms,
    simulate_serving,
)
from llm2clip_search.errors import CorpusError
from tests.support.commands import RunCli, is_one_error

IDLE = ServingCase(
    rows=1_000_000,
    shards=1,
    replicas=1,
    queries_per_second=0.1,
    measured=((1_000_000, 2.0),),
    spread=1.5,
    slow_share=0.0,
    network_ms=0.0,
)


def test_one_idle_shard_has_the_times_that_were_measured() -> None:
    outcome = simulate_serving(IDLE)
    assert outcome.p50_ms == pytest.approx(2.0, rel=0.02)
    assert outcome.p95_ms == pytest.approx(3.0, rel=0.03)
    assert outcome.load < 0.001


def test_the_slowest_shard_decides() -> None:
    outcome = simulate_serving(replace(IDLE, rows=100_000_000, shards=100))
    # The median of the largest of 100 is the quantile 0.5 ** (1 / 100) of one.
    drawn = 2.0 * np.exp(math.log(1.5) / 1.645 * np.random.default_rng(1).standard_normal(2_000_000))
    assert outcome.p50_ms == pytest.approx(np.quantile(drawn, 0.5 ** (1 / 100)), rel=0.02)


def test_rare_delays_are_common_for_queries_of_many_shards() -> None:
    delayed = replace(IDLE, rows=100_000_000, shards=100, slow_share=0.01, slow_factor=20.0)
    assert simulate_serving(replace(delayed, shards=1, rows=1_000_000)).p95_ms < 4
    assert simulate_serving(delayed).p50_ms > 30, "1 - 0.99 ** 100 of them wait for a delayed one"


def test_a_queue_of_one_core_is_as_long_as_theory_says() -> None:
    # Pollaczek and Khinchine: with constant times s and a load r, the mean wait is r s / (2 (1 - r)).
    busy = replace(IDLE, cores=1, spread=1.0, queries_per_second=300.0, queries=60_000)
    outcome = simulate_serving(busy)
    assert outcome.load == pytest.approx(0.6)
    idle = simulate_serving(replace(busy, queries_per_second=0.01, queries=1000))
    assert idle.p99_ms == pytest.approx(2.0)
    assert 2.0 < outcome.p50_ms < 2.0 + 2 * 0.6 * 2.0 / (2 * 0.4)
    assert outcome.p99_ms > 2.0 + 0.6 * 2.0 / (2 * 0.4)


def test_times_are_continued_by_a_power_law_or_a_logarithm() -> None:
    points = [(10_000, 1.0), (1_000_000, 10.0)]
    assert shard_ms(100_000_000, points) == pytest.approx(100.0)
    assert shard_ms(10_000, points) == pytest.approx(1.0)
    assert shard_ms(1_000_000, [(1000, 1.0)]) == pytest.approx(2.0)


def test_memory_is_that_of_vectors_links_and_ids() -> None:
    assert bytes_per_row(512, "float32") == 2048 + 136 + 32
    assert bytes_per_row(512, "binary") == 64 + 136 + 32
    with pytest.raises(CorpusError, match="not as 'int4'"):
        bytes_per_row(512, "int4")


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (replace(IDLE, shards=0), "from 1 on"),
        (replace(IDLE, queries_per_second=0.0), "a rate above 0"),
        (replace(IDLE, spread=0.9), "ratio is 0.9"),
        (replace(IDLE, measured=()), "above 0"),
        (replace(IDLE, measured=((10, -1.0),)), "above 0"),
        (replace(IDLE, queries_per_second=1e6), "times the cores of 1 replicas"),
    ],
)
def test_what_cannot_be_is_refused(case: ServingCase, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason):
        simulate_serving(case)


def test_the_command_prints_a_line_for_each_number_of_shards(run_cli: RunCli) -> None:
    given = ("bench", "simulate-serving", "--rows", "1000000", "--measured", "100000=0.6,1000000=0.9", "--rate", "20")
    done = run_cli(*given, "--spread", "1.5", "--shards", "1,4", "--json")
    one, four = (json.loads(line) for line in done.stdout.splitlines())
    assert (one["machines"], four["machines"]) == (2, 8)
    assert one["memory_bytes"]["float16"] == 4 * four["memory_bytes"]["float16"]
    table = run_cli(*given, "--spread", "1.5", "--shards", "2")
    assert table.stdout.splitlines()[0].split()[:2] == ["shards", "machines"]
    refused = run_cli(*given, "--spread", "1.5", "--shards", "0")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert is_one_error(refused.stderr)
    assert run_cli("bench", "simulate-serving", "--measured", "fast", "--spread", "1.5").returncode == 2
