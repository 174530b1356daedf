"""An end to whatever a DuckDB cursor runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

TIME_LIMIT_S = 60.0
"""A condition that takes longer is stopped, unless another limit is set: backstop to `read_condition`."""
_AGAIN_S = 0.02


@contextmanager
def time_limit(cursor: Any, seconds: float) -> Iterator[None]:
    """Interrupt what a DuckDB cursor runs within, once it has taken this long: a ``duckdb.InterruptException``.

    An interrupt between two statements is lost, so that it is repeated until the end.
    """
    done = Event()

    def interrupt() -> None:
        pause = seconds
        while not done.wait(pause):
            cursor.interrupt()
            pause = _AGAIN_S

    clock = Thread(target=interrupt, daemon=True)
    clock.start()
    try:
        yield
    finally:
        done.set()
        clock.join()
