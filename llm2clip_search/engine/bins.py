"""Ranges of numbers and times that people would choose to count in."""

import math
import sys
from dataclasses import dataclass

import numpy as np

SKEWED = 20
"""A largest value of so many times the mean gets bins that grow, 1, 2, 5, 10, 20, because equal ones would hold all
values in the first."""
DECADES = 6
"""Bins that grow begin so many powers of ten below the largest value at the lowest; all that is less is one bin."""
MOST_TIMES = 62
"""Bins of times at most; two months of days."""
_STEPS = (1, 2, 5)
_WHOLE = 2**53
"""Whole numbers below are exact floats."""
_LARGEST_STEP = 1e308
"""The largest step of `_STEPS` that is a float."""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Ascending ends of bins; a bin holds what is at least its first end and below its second."""

    values: tuple[float, ...]
    """Of numbers; microseconds since 1970 of times."""
    names: tuple[float | str, ...]
    """As people write them: numbers, and periods such as ``2026``, ``2026-11`` and ``2026-11-25`` for times."""


def number_edges(low: float, high: float, mean: float, *, is_whole: bool, limit: int) -> Edges:
    """About ``limit`` bins at most that hold finite numbers from ``low`` to ``high``."""
    if low >= 0 and mean > 0 and high > SKEWED * mean:
        values = _growing(low, high)
    else:
        values = _equal(low, high, is_whole=is_whole, limit=limit)
    # An infinite end is beyond the largest float, and JSON has no infinity.
    finite = [min(max(value, -sys.float_info.max), sys.float_info.max) for value in values]
    plain = [int(value) if value.is_integer() and abs(value) < _WHOLE else value for value in finite]
    return Edges(values=tuple(values), names=tuple(plain))


def _equal(low: float, high: float, *, is_whole: bool, limit: int) -> list[float]:
    largest = max(abs(low), abs(high))
    least = 1.0 if is_whole else max(largest, 1e-9) * 1e-9
    if largest > _WHOLE / 2:
        least = max(least, largest * 1e-14)  # ends that are closer would be rounded to one
    step = min(max(high / limit - low / limit, least), _LARGEST_STEP)
    power = 10.0 ** math.floor(math.log10(step))
    step = next(power * each for each in (*_STEPS, 10) if power * each >= step * (1 - 1e-9))
    first, last = math.floor(low / step) - 1, math.ceil(high / step) + 1
    # Multiplied, not added up, so that 0.3 stays 0.3; divided, it may be just below 3.
    edges = [_plain(number * step) for number in range(first, last + 1)]
    start = max(number for number, edge in enumerate(edges) if edge <= low)
    end = min(number for number, edge in enumerate(edges) if edge > high)
    return edges[start : end + 1]


def _growing(low: float, high: float) -> list[float]:
    top = math.floor(math.log10(high))
    bottom = max(math.floor(math.log10(low)), top - DECADES) if low > 0 else top - DECADES
    # A power of ten that is no float is an error; read from text, it is infinite, which ends the last bin.
    series = [float(f"{each}e{power}") for power in range(bottom, top + 2) for each in _STEPS]
    below = [value for value in series if value <= low]
    kept = [value for value in series if value > low]
    end = next(number for number, value in enumerate(kept) if value > high)
    return [below[-1] if below else 0.0, *kept[: end + 1]]


def _plain(value: float) -> float:
    """Without the noise of binary fractions, which whole numbers do not have."""
    return value if value.is_integer() and abs(value) < _WHOLE else float(f"{value:.15g}")


def time_edges(low: int, high: int) -> Edges:
    """Days, months or years that hold times from ``low`` to ``high``, microseconds since 1970."""
    first, last = np.array([low, high], dtype="datetime64[us]")
    for unit in ("D", "M", "Y"):
        start, end = first.astype(f"datetime64[{unit}]"), last.astype(f"datetime64[{unit}]")
        count = int((end - start).astype(int)) + 1
        if count <= MOST_TIMES or unit == "Y":
            break
    step = 1
    if count > MOST_TIMES:  # a wrong date, thousands of years away
        powers = (10**power * each for power in range(5) for each in _STEPS)
        step = next(each for each in powers if count / each <= MOST_TIMES)
        year = int(start.astype(int)) + 1970
        start = start - (year % step)
        count = int((end - start).astype(int)) // step + 1
    marks = start + np.arange(count + 1) * step
    return Edges(
        values=tuple(marks.astype("datetime64[us]").astype(np.int64).tolist()), names=tuple(str(mark) for mark in marks)
    )
