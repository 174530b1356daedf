"""Reading from other machines before a decoding thread asks: waiting takes threads, not processors."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from llm2clip_search.corpora.corpus import Item, ItemReader

READS = 32
"""Requests at once, of all hosts together."""
_Any = TypeVar("_Any")


class ReadAhead(ItemReader):
    """A reader whose items are read from the moment when they are listed, if they lie on another machine.

    Memory is bounded by how far its consumer lists ahead. Use it as a context.
    """

    def __init__(self, reader: ItemReader, *, largest: int) -> None:
        """A reader of the same items.

        Args:
            largest: bytes; items that are larger are not read ahead.
        """
        self._reader, self._largest = reader, largest
        self._pool: ThreadPoolExecutor | None = None
        self._reads: dict[int, tuple[Item, Future[bytes]]] = {}

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def listed(self, items: Iterable[_Any]) -> Iterator[_Any]:
        """The same items, whose reading begins; whatever else is among them passes through."""
        for item in items:
            if isinstance(item, Item) and "://" in item.uri and self._is_to_read(item):
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(READS, thread_name_prefix="read")
                self._reads[id(item)] = item, self._pool.submit(self._reader.open, item)  # the entry keeps its id
            yield item

    def open(self, item: Item) -> bytes:
        with suppress(KeyError):
            return self._reads.pop(id(item))[1].result()
        return self._reader.open(item)

    def _is_to_read(self, item: Item) -> bool:
        return item.data is None and not item.fault and not item.is_container and item.size <= self._largest
