"""A file elsewhere, to read and seek in, by ranges that grow while it is read on."""

import io
from collections.abc import Callable

from llm2clip_search.errors import InputError

_FIRST = 64 << 10
_LARGEST = 8 << 20
"""Bytes of a range: small after a jump, for footers and headers, then doubled with each that follows the last."""


class RangeFile(io.RawIOBase):
    """A file whose bytes are read by ``read(offset, size)``. Wrap it in `io.BufferedReader`."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size = read, size
        self._position, self._start, self._step = 0, 0, _FIRST
        self._held = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise InputError(f"There is no position {start + offset} in a file.")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "io.WriteableBuffer") -> int:  # type: ignore[name-defined]
        view = memoryview(buffer).cast("B")
        if not len(view) or self._position >= self._size:
            return 0
        at = self._position - self._start
        if not 0 <= at < len(self._held):
            reads_on = bool(self._held) and at == len(self._held)
            self._step = min(2 * self._step, _LARGEST) if reads_on else _FIRST
            wanted = min(max(len(view), self._step), self._size - self._position)
            self._held = b""  # before the next range comes: not both at once
            self._held, self._start, at = self._read(self._position, wanted), self._position, 0
            if not self._held:
                raise OSError(f"the file ends after {self._position:,} of {self._size:,} bytes")
        count = min(len(view), len(self._held) - at)
        view[:count] = memoryview(self._held)[at : at + count]
        self._position += count
        return count


def buffered(read: Callable[[int, int], bytes], size: int) -> io.BufferedReader:
    """A file of ``size`` bytes that is read by ranges."""
    return io.BufferedReader(RangeFile(read, size), buffer_size=_FIRST)
