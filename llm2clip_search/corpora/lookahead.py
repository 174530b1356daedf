"""Threads that work ahead of their consumer, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[Result]:
    """``map`` over a thread pool, in order, with at most ``ahead`` results waiting or in work.

    If the consumer stops early, calls that have not started are cancelled.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def list_ahead(items: Iterable[Item], *, ahead: int) -> Iterator[Item]:
    """The same items, listed in a thread of their own, with at most ``ahead`` of them waiting.

    Listing a document or a video renders its pages and decodes its frames, which must not wait for the encoder. What
    ``items`` raises is raised here. If the consumer stops early, so does the thread, at its next item.
    """
    waiting: Queue[tuple[Item | None, BaseException | None]] = Queue(ahead)
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
