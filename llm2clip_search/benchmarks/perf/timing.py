"""Wall-clock time of calls."""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def seconds_of(function: Callable[[], object]) -> float:
    """Call a function and return how long it took, in seconds."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def median_ms(function: Callable[[T], object], arguments: Iterable[T]) -> float:
    """Milliseconds of a call, the median; the first call, which opens files and warms caches, is not counted."""
    times = [seconds_of(partial(function, argument)) for argument in arguments]
    return 1000 * statistics.median(times[1:])
