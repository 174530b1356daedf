"""Values that are expensive to make, such as loaded towers: made once, when they are first used."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """A value that the first `get` makes; threads that ask for it meanwhile wait for that one.

    Every value has a lock of its own, so that loading one tower does not block the use of another. If making it
    fails, the error is raised to that caller and the next `get` tries again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = Lock()
        self._made: tuple[T] | None = None

    def get(self) -> T:
        if (made := self._made) is None:
            with self._lock:
                if (made := self._made) is None:
                    made = self._made = (self._make(),)
        return made[0]
