"""Threads that work ahead of their consumer, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
HELD_BYTES = 256 << 20
"""Content that waits in one of these: frames and pages have megabytes each."""


def _weightless(item: object) -> int:
    return 0


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    weigh: Callable[[Item], int] = _weightless,
    stop: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """``map`` over a thread pool, in order, with at most ``ahead`` results waiting or in work.

    If the consumer stops early, calls that have not started are cancelled.

    Args:
        weigh: bytes that an item holds; there are at most `HELD_BYTES` of them, or one item.
        stop: called at the end, before calls are waited for that still run because the consumer has stopped early.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[Future[Result], int]] = deque()
        held = 0
        try:
            for item in items:
                weight = weigh(item)
                while waiting and (len(waiting) >= ahead or held + weight > HELD_BYTES):
                    future, freed = waiting.popleft()
                    held -= freed
                    yield future.result()
                waiting.append((pool.submit(function, item), weight))
                held += weight
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()
            stop()


class _Waiting(Queue[tuple[Any, BaseException | None]]):
    """A queue that is full with a number of items, or with the bytes that they hold."""

    def __init__(self, ahead: int, weigh: Callable[[Any], int]) -> None:
        super().__init__(ahead)
        self._weigh, self._held = weigh, 0

    def _qsize(self) -> int:
        return super()._qsize() if self._held < HELD_BYTES else self.maxsize

    def _put(self, item: tuple[Any, BaseException | None]) -> None:
        super()._put(item)
        self._held += self._weigh(item[0])

    def _get(self) -> tuple[Any, BaseException | None]:
        item = super()._get()
        self._held -= self._weigh(item[0])
        return item


def list_ahead(items: Iterable[Item], *, ahead: int, weigh: Callable[[Item], int] = _weightless) -> Iterator[Item]:
    """The same items, listed in a thread of their own, with at most ``ahead`` of them waiting.

    Listing a document or a video renders its pages and decodes its frames, which must not wait for the encoder. What
    ``items`` raises is raised here. If the consumer stops early, so does the thread, at its next item.

    Args:
        weigh: bytes that an item holds; listing waits when there are `HELD_BYTES` of them.
    """
    waiting = _Waiting(ahead, lambda item: 0 if item is None else weigh(item))
    stopped = Event()

    def put(item: Item | None, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            try:
                waiting.put((item, error), timeout=0.1)
            except Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(None, error)

    thread = Thread(target=work, name="list", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
