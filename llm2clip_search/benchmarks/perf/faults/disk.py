"""Every change that a process makes to the files below a folder, seen before and after it is made.

Libraries that write files by themselves (Arrow, FAISS) are given Python's files instead, so that their writes are seen
as well. What a library written in Rust does, such as LanceDB, is not.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

_REAL_OPEN = os.open
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One change of the files, or the opening of one to be read."""

    kind: str
    """create, write, truncate, fsync, rename, unlink, rmdir, mkdir, link or open."""
    path: str
    """Relative to the folder, posix; ``.`` is the folder itself."""
    to: str = ""
    """The other name of ``rename`` and ``link``."""
    offset: int = 0
    """Where ``write`` begins; the length that ``truncate`` leaves."""
    data: bytes = b""

    @property
    def step(self) -> str:
        """What is done to which file, for people; numbers of shards, generations and processes are left out."""
        names = [name for name in (self.path, self.to) if name]
        return f"{self.kind} {' -> '.join(_NUMBERS.sub('N', name) for name in names)}"


Perform = Callable[[bytes], Any]
"""Does an operation; of ``write`` as much of the data as it is given, of the others with whatever."""
Around = Callable[[Operation, Perform], Any]
"""Is called for an operation in place of doing it, and gives what it would give."""


class Disk:
    """Puts a function around every operation on files below a folder, in this process."""

    def __init__(self, folder: Path, around: Around, *, under: str, but: str) -> None:
        """Operations on ``folder`` itself and on all below ``under`` in it are seen, except for those below ``but``."""
        self.folder, self._around = folder.absolute(), around
        self._under, self._but = self.folder / under, self.folder / but

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this lasts, operations go through the function; it is for one thread that writes."""
        import faiss

        real_open, real_arrow_file = io.open, pa.OSFile

        def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
            path = self._below(file)
            if path is None:
                return real_open(file, mode, buffering, *args, **options)
            if not set(mode) & set("wax+"):
                return self._do("open", path, lambda _: real_open(file, mode, buffering, *args, **options))
            raw = _WatchedFile(self, path, mode)
            if "b" in mode:
                return raw if buffering == 0 else io.BufferedWriter(raw)
            return io.TextIOWrapper(io.BufferedWriter(raw), *args, **options)

        def os_opened(file: Any, flags: int, *args: Any, **options: Any) -> int:
            path = self._below(file, options.get("dir_fd"))
            if path is None or not flags & os.O_CREAT or os.path.lexists(file):
                return _REAL_OPEN(file, flags, *args, **options)
            descriptor: int = self._do("create", path, lambda _: _REAL_OPEN(file, flags, *args, **options))
            return descriptor

        def two_names(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def operation(source: Any, target: Any, **options: Any) -> Any:
                path, to = self._below(source), self._below(target)
                if path is None or to is None:
                    return real(source, target, **options)
                return self._do(kind, path, lambda _: real(source, target, **options), to=to)

            return operation

        def one_name(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def operation(file: Any, *args: Any, dir_fd: int | None = None, **options: Any) -> Any:
                path = self._below(file, dir_fd)
                given = options if dir_fd is None else {**options, "dir_fd": dir_fd}
                if path is None:
                    return real(file, *args, **given)
                return self._do(kind, path, lambda _: real(file, *args, **given))

            return operation

        def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
            path = self._below(Path(f"/proc/self/fd/{descriptor}").readlink())
            if path is None:
                real(descriptor)
            else:
                self._do("fsync", path, lambda _: real(descriptor))

        def arrow_file(path: Any, mode: str = "r", **options: Any) -> Any:
            return real_arrow_file(path, mode, **options) if "w" not in mode else pa.PythonFile(opened(path, mode))

        class ParquetWriter(pq.ParquetWriter):  # type: ignore[misc]
            def __init__(self, where: Any, *args: Any, **options: Any) -> None:
                self._opened = opened(where, "wb") if isinstance(where, str | Path) else None
                super().__init__(self._opened or where, *args, **options)

            def close(self) -> None:
                super().close()
                if self._opened is not None:
                    self._opened.close()

        real_write_index = faiss.write_index

        def write_index(index: Any, path: Any, *args: Any) -> None:
            if not isinstance(path, str):
                real_write_index(index, path, *args)
                return
            with opened(path, "wb", 0) as file:
                data = memoryview(faiss.serialize_index(index).tobytes())
                while data:
                    data = data[file.write(data[: 1 << 16]) :]

        changes: list[tuple[Any, str, Any]] = [
            (io, "open", opened),
            (os, "open", os_opened),
            (os, "fsync", fsync),
            (pa, "OSFile", arrow_file),
            (pq, "ParquetWriter", ParquetWriter),
            (faiss, "write_index", write_index),
            *((os, name, two_names("rename", getattr(os, name))) for name in ("rename", "replace")),
            (os, "link", two_names("link", os.link)),
            *((os, name, one_name("unlink", getattr(os, name))) for name in ("unlink", "remove")),
            *((os, name, one_name(name, getattr(os, name))) for name in ("rmdir", "mkdir")),
        ]
        patches = [mock.patch.object(*change) for change in changes]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in reversed(patches):
                patch.stop()

    def _do(self, kind: str, path: str, perform: Perform, **more: Any) -> Any:
        return self._around(Operation(kind=kind, path=path, **more), perform)

    def _below(self, file: Any, dir_fd: int | None = None) -> str | None:
        """The name of a file relative to the folder; None if it is somewhere else."""
        if not isinstance(file, str | bytes | os.PathLike):
            return None
        path = Path(os.fsdecode(file))
        if dir_fd is not None:
            path = Path(f"/proc/self/fd/{dir_fd}").readlink() / path
        path = path.absolute()
        if path == self.folder or (path.is_relative_to(self._under) and not path.is_relative_to(self._but)):
            return path.relative_to(self.folder).as_posix()
        return None


class _WatchedFile(io.RawIOBase):
    """A file whose writes are operations."""

    def __init__(self, disk: Disk, path: str, mode: str) -> None:
        super().__init__()
        self._disk, self._path = disk, path
        whole, flags = disk.folder / path, os.O_WRONLY | os.O_CREAT
        if "w" in mode:
            flags |= os.O_TRUNC
        if "x" in mode:
            flags |= os.O_EXCL
        kind = "truncate" if whole.exists() else "create"
        self._descriptor: int = disk._do(kind, path, lambda _: _REAL_OPEN(whole, flags, 0o666))
        self._at = whole.stat().st_size if "a" in mode else 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = os.lseek(self._descriptor, offset, whence) if whence == os.SEEK_END else offset
        if whence == os.SEEK_CUR:
            raise io.UnsupportedOperation("seeking from the present position")
        return self._at

    def write(self, data: Any, /) -> int:
        given = bytes(data)
        operation = {"offset": self._at, "data": given}
        written: int = self._disk._do(
            "write", self._path, lambda part: os.pwrite(self._descriptor, part, self._at), **operation
        )
        self._at += written
        return written

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)
