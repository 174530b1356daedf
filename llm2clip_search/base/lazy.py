"""Values that are made at first use, once, however many threads ask for them at the same time."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Lazy(Generic[Value]):
    """Calls ``make`` at the first call and returns its result from then on.

    ``functools.cached_property`` has no lock since Python 3.12, so that two threads could load one language model
    twice. Each `Lazy` has a lock of its own: waiting for one value does not hold up another. If ``make`` raises, the
    next call tries again.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._lock = Lock()
        self._made: list[Value] = []

    def __call__(self) -> Value:
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]
