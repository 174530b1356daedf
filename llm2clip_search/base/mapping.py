"""Files in memory without a file descriptor: an index of thousands of shards must not run into the limit of open files.

``mmap.mmap`` duplicates the descriptor and keeps it, until Python 3.13 brought ``trackfd``. The system does not need
it: POSIX says that a mapping outlives the descriptor it was made from. `FileRows`, of which there are few, reads
instead, and keeps its file open.
"""

import ctypes
import errno
import math
import mmap
import os
import sys
import weakref
from functools import cache
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, cast

import numpy as np


def map_file(path: Path) -> np.ndarray:
    """The bytes of a file, read only, uint8 ``[size]``; they are mapped for as long as the array or a view of it lives.

    On Windows the file stays open meanwhile.

    Raises:
        OSError: the file cannot be opened or mapped.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return np.empty(0, dtype=np.uint8)
        if os.name == "nt":
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
        if sys.version_info >= (3, 13):
            kept = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, trackfd=False)
            return np.frombuffer(kept, dtype=np.uint8)
        address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    memory = _Mapped(address, size)
    # At exit the system takes the memory back, when other finalizers may still read it.
    weakref.finalize(memory, _libc().munmap, address, size).atexit = False
    return np.asarray(memory)


def map_array(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file, read only and mapped as `map_file` does.

    Raises:
        OSError: the file cannot be opened or mapped.
        ValueError: it is not a ``.npy`` file of numbers in C order, or not as long as its header says.
    """
    data = map_file(path)
    with path.open("rb") as file:
        start, shape, dtype = _read_header(file)
    return data[start:].view(dtype).reshape(shape)


class FileRows:
    """The rows of a matrix in a ``.npy`` file, of which those that are asked for are read.

    Of a mapped file, the kernel may count half a megabyte around each row as memory of the process, if it has just been
    written. Any number of threads may read.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, which stays open.

        Raises:
            OSError, ValueError: as `map_array`; or it is not a matrix.
        """
        with path.open("rb") as file:
            self._start, shape, self._dtype = _read_header(file)
            if len(shape) != 2:
                raise ValueError(f"it has {len(shape)} dimensions instead of 2")
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._rows, self._width = shape

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Rows by integers of any shape ``[...]``, not below 0: ``[..., width]``, of the file's type.

        Raises:
            IndexError: there is no such row.
            OSError: the file cannot be read, or has become shorter.
        """
        wanted, places = np.unique(rows, return_inverse=True)
        if len(wanted) and (wanted[0] < 0 or wanted[-1] >= self._rows):
            raise IndexError(f"row {wanted[0] if wanted[0] < 0 else wanted[-1]} of {self._rows}")
        found = np.empty((len(wanted), self._width), dtype=self._dtype)
        size = found.itemsize * self._width
        for row, part in zip(wanted.tolist(), found, strict=True):
            if os.preadv(self._descriptor, [part], self._start + row * size) != size:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return found[places.reshape(np.shape(rows))]


def open_rows(path: Path) -> FileRows | np.ndarray:
    """`FileRows`, or where the system cannot read at a place of a file (Windows), its mapped array.

    Raises:
        OSError, ValueError: as `map_array`.
    """
    return FileRows(path) if hasattr(os, "preadv") else map_array(path)


def _read_header(file: BinaryIO) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Where the numbers of a ``.npy`` file begin, their shape and type; errors as of `map_array`."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read(file)
    except (SyntaxError, TokenError, TypeError) as error:  # numpy parses it as Python
        raise ValueError("its header is damaged") from error
    if is_fortran or dtype.hasobject:
        raise ValueError("it is not an array of numbers in C order")
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    expected = start + dtype.itemsize * math.prod(shape)
    if size != expected:
        raise ValueError(f"it has {size:,} bytes, but its header asks for {expected:,}")
    return start, shape, dtype


class _Mapped:
    """Bytes at an address as numpy takes them. An array of ``ctypes`` would leave a class behind for each size."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {"version": 3, "data": (address, True), "shape": (size,), "typestr": "|u1"}


@cache
def _libc() -> Any:
    library = cast("Any", ctypes.CDLL(None, use_errno=True))
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library
