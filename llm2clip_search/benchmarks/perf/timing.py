"""Wall-clock time of calls."""

import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from llm2clip_search.encoders import Encoder

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


def tower_rate(encoder: Encoder, pixels: np.ndarray, batch_size: int) -> float:
    """Images per second of the vision tower on pixels in memory, uint8 ``[n, height, width, 3]``.

    It is called by as many threads as it wants.
    """

    def embed() -> None:
        starts = range(0, len(pixels), batch_size)
        with ThreadPoolExecutor(encoder.calls_at_once) as pool:
            for _ in pool.map(lambda first: encoder.encode_pixels(pixels[first : first + batch_size]), starts):
                pass

    return len(pixels) / seconds_of(embed)
