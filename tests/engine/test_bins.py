"""Bins of numbers and of times, as facets count them."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.engine.bins import MOST_TIMES, number_edges, time_edges


@pytest.mark.parametrize(
    ("low", "high", "mean"),
    [(0, 5, 2), (-1, 5, 2), (1, 9000, 4000), (3, 3, 3), (0.1, 0.7, 0.3), (-1e12, 1e12, 0), (0, 1e9, 10), (5, 1e15, 9)],
)
def test_bins_of_numbers_hold_all_and_are_few(low: float, high: float, mean: float) -> None:
    edges = number_edges(low, high, mean, is_whole=float(low).is_integer(), limit=20)
    assert edges.values[0] <= low
    assert edges.values[-2] <= high < edges.values[-1]
    assert list(edges.values) == sorted(set(edges.values))
    assert 1 <= len(edges.values) - 1 <= 30


@pytest.mark.parametrize(
    ("low", "high", "is_whole"),
    [
        (1_700_000_000_123, 1_700_000_000_123, True),
        (1_700_000_000_123, 1_700_000_000_123, False),
        (10**17, 10**17 + 4_000, True),
        (2**53 - 1, 2**53 - 1, True),
        (10**18 - 1, 10**18 - 1, True),
        (-(2**63), 2**63 - 1, True),
        (-1e308, 1e308, False),
        (-sys.float_info.max, sys.float_info.max, False),
        (5e-324, 5e-324, False),
    ],
)
@pytest.mark.parametrize("limit", [1, 20])
def test_bins_of_large_numbers_hold_all(low: float, high: float, is_whole: bool, limit: int) -> None:
    check_bins(float(low), float(high), float(low) / 2 + float(high) / 2, is_whole=is_whole, limit=limit)


def test_whole_numbers_of_thirteen_digits_get_bins_of_their_own() -> None:
    edges = number_edges(1.7e12, 1.7e12 + 5, 1.7e12 + 2, is_whole=True, limit=20)
    assert edges.names == tuple(range(1_700_000_000_000, 1_700_000_000_007))


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(
    ends=st.one_of(
        st.tuples(FINITE, FINITE),
        st.tuples(st.integers(-(2**63), 2**63), st.integers(0, 2**40)).map(lambda two: (two[0], sum(two))),
        st.tuples(st.integers(2**53 - 1000, 2**53), st.integers(0, 10**4)).map(lambda two: (two[0], sum(two))),
    ),
    share=st.floats(0, 1),
    limit=st.integers(1, 200),
)
def test_bins_of_any_numbers_hold_all_and_are_few(ends: tuple[float, float], share: float, limit: int) -> None:
    low, high = sorted(map(float, ends))
    mean = low * (1 - share) + high * share
    for is_whole in {False, low.is_integer() and high.is_integer()}:
        check_bins(low, high, mean, is_whole=is_whole, limit=limit)


def check_bins(low: float, high: float, mean: float, *, is_whole: bool, limit: int) -> None:
    edges = number_edges(low, high, mean, is_whole=is_whole, limit=limit)
    assert edges.values[0] <= low
    assert edges.values[-2] <= high < edges.values[-1]
    assert list(edges.values) == sorted(set(edges.values))
    assert list(edges.names) == sorted(set(edges.names))
    assert all(math.isfinite(name) for name in edges.names if not isinstance(name, str))
    # Ends are round numbers, so that the first and the last bin may lie half outside; bins that grow have their own.
    assert len(edges.values) - 1 <= max(limit + 2, 24)


@pytest.mark.parametrize(
    ("first", "last", "start", "end"),
    [
        ("2026-11-25T10:00", "2026-11-25T12:00", "2026-11-25", "2026-11-26"),
        ("2026-01-31", "2026-02-28", "2026-01-31", "2026-03-01"),
        ("2024-12-31", "2026-03-01", "2024-12", "2026-04"),
        ("1998-05-05", "2026-03-01", "1998", "2027"),
        ("1601-01-01", "2026-03-01", "1600", "2030"),
    ],
)
def test_bins_of_times_are_days_months_or_years(first: str, last: str, start: str, end: str) -> None:
    low, high = (int(np.datetime64(each, "us").astype(int)) for each in (first, last))
    edges = time_edges(low, high)
    assert (edges.names[0], edges.names[-1]) == (start, end)
    assert edges.values[0] <= low <= high < edges.values[-1]
    assert len(edges.values) <= MOST_TIMES + 1
