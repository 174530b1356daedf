"""Reading from other machines before a decoding thread asks: waiting takes threads, not processors."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import TypeVar

from llm2clip_search.corpora.corpus import Item, ItemReader
from llm2clip_search.corpora.lookahead import HELD_BYTES

READS = 32
"""Requests at once, of all hosts together."""
_Any = TypeVar("_Any")


@dataclass(eq=False, slots=True)
class _Read:
    item: Item
    content: "Future[bytes]" = field(default_factory=Future)
    is_asked_for: bool = False
    """Somebody waits for it."""
    has_begun: bool = False
    size: int = 0
    """Bytes of its content; 0 until it has been read."""


class ReadAhead(ItemReader):
    """A reader whose items are read from the moment when they are listed, if they lie on another machine.

    The size of what has an address is often unknown until it has been read. So no read begins while what was read and
    not yet opened has more than `HELD_BYTES`, unless somebody waits for an item that is still to be read. Its threads
    do not keep the process alive, so an interrupted run need not wait for a slow server.
    """

    def __init__(self, reader: ItemReader, *, largest: int) -> None:
        """A reader of the same items.

        Args:
            largest: bytes; items that are larger are not read ahead.
        """
        self._reader, self._largest = reader, largest
        self._threads = 0
        self._changed = Condition()
        """Guards everything below."""
        self._reads: dict[int, _Read] = {}
        self._waiting: deque[_Read] = deque()
        self._asked_for = 0
        """Reads in `_waiting` that somebody waits for."""
        self._held = 0
        """Bytes that were read and not yet opened."""
        self._is_stopped = False

    def listed(self, items: Iterable[_Any]) -> Iterator[_Any]:
        """The same items, whose reading begins; whatever else is among them passes through."""
        for item in items:
            if isinstance(item, Item) and "://" in item.uri and self._is_to_read(item):
                self._begin(_Read(item))
            yield item

    def open(self, item: Item) -> bytes:
        with self._changed:
            read = self._reads.get(id(item))
            if read is not None and not (read.has_begun or read.is_asked_for or self._is_stopped):
                read.is_asked_for = True
                self._asked_for += 1
                self._changed.notify_all()
        if read is None:
            return self._reader.open(item)
        try:
            return read.content.result()
        finally:
            self._forget(read)

    def stop(self) -> None:
        """End the threads. Who waits for an item that is still being read gets an `OSError`."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            reads = list(self._reads.values())
        for read in reads:
            with suppress(InvalidStateError):  # it has been read
                read.content.set_exception(OSError("the run was stopped"))

    def _begin(self, read: _Read) -> None:
        with self._changed:
            if id(read.item) in self._reads:  # listed twice
                return
            self._reads[id(read.item)] = read  # which keeps the item, and so its id
            self._waiting.append(read)
            self._changed.notify()
        if self._threads < READS:
            self._threads += 1
            Thread(target=self._work, name="read", daemon=True).start()

    def _work(self) -> None:
        while self._read_next():
            pass

    def _read_next(self) -> bool:
        """Do a read, by itself so that a thread that waits for the next one holds no content; False at the end."""
        read = self._next()
        if read is None:
            return False
        try:
            data = self._reader.open(read.item)
        except BaseException as error:
            with suppress(InvalidStateError):
                read.content.set_exception(error)
        else:
            with self._changed, suppress(InvalidStateError):
                read.content.set_result(data)
                if id(read.item) in self._reads:
                    read.size = len(data)
                    self._held += read.size
        return True

    def _next(self) -> _Read | None:
        """The oldest read that has not begun, once it may; None if there is nothing more to do."""
        with self._changed:
            self._changed.wait_for(self._may_begin)
            if self._is_stopped:
                return None
            read = self._waiting.popleft()
            read.has_begun = True
            self._asked_for -= read.is_asked_for
            return read

    def _may_begin(self) -> bool:
        return self._is_stopped or (bool(self._waiting) and (self._held <= HELD_BYTES or self._asked_for > 0))

    def _forget(self, read: _Read) -> None:
        """Count what was opened as held no more."""
        with self._changed:
            if self._reads.pop(id(read.item), None) is None:  # another thread has opened it too
                return
            is_full = self._held > HELD_BYTES
            self._held -= read.size
            if is_full:
                self._changed.notify_all()

    def _is_to_read(self, item: Item) -> bool:
        return item.data is None and not item.fault and not item.is_container and item.size <= self._largest
