"""Reading from other machines before a decoding thread asks: waiting takes threads, not processors."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from llm2clip_search.corpora.corpus import Item, ItemReader

READS = 32
"""Requests at once, of all hosts together."""
_Any = TypeVar("_Any")
_Read = tuple[Item, "Future[bytes]"]


class ReadAhead(ItemReader):
    """A reader whose items are read from the moment when they are listed, if they lie on another machine.

    Memory is bounded by how far its consumer lists ahead. Its threads do not keep the process alive, so an interrupted
    run need not wait for a slow server.
    """

    def __init__(self, reader: ItemReader, *, largest: int) -> None:
        """A reader of the same items.

        Args:
            largest: bytes; items that are larger are not read ahead.
        """
        self._reader, self._largest = reader, largest
        self._threads = 0
        self._reads: dict[int, _Read] = {}
        self._waiting: SimpleQueue[_Read | None] = SimpleQueue()

    def listed(self, items: Iterable[_Any]) -> Iterator[_Any]:
        """The same items, whose reading begins; whatever else is among them passes through."""
        for item in items:
            if isinstance(item, Item) and "://" in item.uri and self._is_to_read(item):
                read: _Read = (item, Future())
                self._reads[id(item)] = read  # which keeps the item, and so its id
                self._waiting.put(read)
                if self._threads < READS:
                    self._threads += 1
                    Thread(target=self._work, name="read", daemon=True).start()
            yield item

    def open(self, item: Item) -> bytes:
        read = self._reads.get(id(item))
        if read is None:
            return self._reader.open(item)
        try:
            return read[1].result()
        finally:
            self._reads.pop(id(item), None)

    def stop(self) -> None:
        """End the threads. Who waits for an item that is still being read gets an `OSError`."""
        for _, future in list(self._reads.values()):
            with suppress(InvalidStateError):  # it has been read
                future.set_exception(OSError("the run was stopped"))
        for _ in range(self._threads):
            self._waiting.put(None)

    def _work(self) -> None:
        while (read := self._waiting.get()) is not None:
            item, future = read
            if future.done():  # stopped
                continue
            try:
                data = self._reader.open(item)
            except BaseException as error:
                with suppress(InvalidStateError):
                    future.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    future.set_result(data)

    def _is_to_read(self, item: Item) -> bool:
        return item.data is None and not item.fault and not item.is_container and item.size <= self._largest
