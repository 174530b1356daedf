"""Wall-clock time of a call."""

import time
from collections.abc import Callable


def seconds_of(function: Callable[[], object]) -> float:
    """Call a function and return how long it took, in seconds."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
