"""The simulated index run against what can be computed without simulating."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.benchmarks.perf.simulated_indexing import IndexingCase, simulate_indexing
from llm2clip_search.errors import CorpusError
from tests.support.commands import RunCli, is_one_error

CASE = IndexingCase(images=50_000_000, nodes=16, node_rate=500.0, driver_rate=math.inf, load_s=60.0)


def test_without_failures_a_run_takes_as_long_as_its_images_need() -> None:
    outcome = simulate_indexing(CASE)
    assert outcome.hours == pytest.approx(50_000_000 / (16 * 500) / 3600 + 60 / 3600, rel=0.01)
    assert (outcome.repeated, outcome.node_failures, outcome.driver_failures) == (0, 0, 0)
    assert outcome.node_hours == pytest.approx(16 * outcome.hours)
    assert outcome.efficiency == pytest.approx(0.99, abs=0.01)


def test_a_slow_driver_is_what_a_run_waits_for() -> None:
    outcome = simulate_indexing(replace(CASE, driver_rate=2000.0))
    assert outcome.hours == pytest.approx(50_000_000 / 2000 / 3600, rel=0.02)
    assert outcome.driver_load > 0.98


def test_listing_comes_first() -> None:
    listed = simulate_indexing(replace(CASE, plan_rate=10_000.0))
    assert listed.hours - simulate_indexing(CASE).hours == pytest.approx(50_000_000 / 10_000 / 3600, rel=1e-6)


def test_nodes_that_fail_are_missing_for_the_share_of_time_that_theory_says() -> None:
    case = replace(CASE, images=200_000_000, nodes=64, node_hours=4.0, replace_s=600.0)
    outcome = simulate_indexing(case)
    # A renewal process: up for 4 h on average, then down for 660 s; and half a unit is lost at each end.
    expected = 4 * 3600 / (4 * 3600 + 660)
    assert outcome.efficiency == pytest.approx(expected, abs=0.02)
    assert outcome.node_failures == pytest.approx(64 * outcome.hours / (4 + 660 / 3600), rel=0.15)
    # Nodes that fail while they load, or wait for the end, have no unit to lose.
    assert 0.85 * outcome.node_failures * case.unit <= outcome.repeated <= outcome.node_failures * case.unit


def test_a_driver_that_fails_loses_what_it_has_not_committed() -> None:
    outcome = simulate_indexing(replace(CASE, images=200_000_000, driver_hours=2.0))
    assert outcome.driver_failures > 0
    held = 3 * CASE.wave + CASE.nodes * CASE.unit
    assert 0 < outcome.repeated <= outcome.driver_failures * held


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 300_000),
    st.integers(1, 40),
    st.sampled_from([0.5, 3.0, math.inf]),
    st.sampled_from([0.3, math.inf]),
    st.integers(0, 9),
)
def test_every_run_ends(images: int, nodes: int, node_hours: float, driver_hours: float, seed: int) -> None:
    case = IndexingCase(
        images=images,
        nodes=nodes,
        node_rate=100.0,
        driver_rate=5000.0,
        wave=8192,
        unit=512,
        node_hours=node_hours,
        driver_hours=driver_hours,
        seed=seed,
    )
    outcome = simulate_indexing(case)
    assert outcome.hours >= images / (nodes * 100.0 * 1.6) / 3600
    assert 0 < outcome.efficiency <= 1.6
    assert outcome == simulate_indexing(case), "a run is a function of its seed"


@pytest.mark.parametrize(
    "case",
    [replace(CASE, nodes=0), replace(CASE, node_rate=0.0), replace(CASE, driver_rate=-1.0), replace(CASE, plan_rate=0)],
)
def test_what_cannot_be_is_refused(case: IndexingCase) -> None:
    with pytest.raises(CorpusError, match="above 0"):
        simulate_indexing(case)


def test_nodes_that_never_end_a_unit_are_refused() -> None:
    with pytest.raises(CorpusError, match="a node fails every 4 s on average"):
        simulate_indexing(replace(CASE, node_hours=0.001))


def test_the_command_prints_a_line_for_each_number_of_nodes(run_cli: RunCli) -> None:
    given = ("bench", "simulate-indexing", "--images", "1000000", "--node-rate", "500", "--driver-rate", "20000")
    done = run_cli(*given, "--nodes", "2,4", "--json")
    two, four = (json.loads(line) for line in done.stdout.splitlines())
    assert (two["nodes"], four["nodes"]) == (2, 4)
    assert two["hours"] > 1.8 * four["hours"]
    assert run_cli(*given, "--nodes", "2").stdout.splitlines()[0].split()[:2] == ["nodes", "hours"]
    refused = run_cli(*given, "--nodes", "0")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert is_one_error(refused.stderr)
