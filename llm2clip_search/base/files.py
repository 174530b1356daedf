"""Files and folders that are either complete or absent, and their checksums."""

import errno
import glob
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_READ_ONLY = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""Opening a pipe must not wait for a writer, and a terminal must not become that of this process."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a program got it from its user: ``~`` is the home folder, unless a file of that name exists."""
    given = Path(path)
    return given if given.exists() else Path(os.path.expanduser(given))  # noqa: PTH111 - Path's raises for ~nobody


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file of strangers to read: a pipe, a socket or a device in its place is neither waited for nor read.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, _READ_ONLY | _WITHOUT_WAITING)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file but a folder, a pipe, a socket or a device", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Flush a file's bytes or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path, *, parents: bool = False) -> None:
    """Create a folder if it is missing, and flush its name to the disk.

    Args:
        parents: create the folders that it lies in as well.

    Raises:
        FileNotFoundError: the folder that it lies in is missing.
    """
    missing = [each for each in (path, *(path.parents if parents else ())) if not each.exists()]
    path.mkdir(parents=parents, exist_ok=True)
    for each in reversed(missing):
        fsync_path(each.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it, and put it in place of the old one."""
    with replaced_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that the caller writes; it takes the name ``path`` on success.

    The file is flushed before it is renamed, and the folder after it, so that readers see the old file or the new
    one, and a power cut leaves one of them. On an error the temporary file is removed and the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def remove_leftovers(path: Path) -> None:
    """Delete temporary files of `replaced_file` that a killed process left beside ``path``.

    Call it only where no other process can be writing ``path``.
    """
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        temporary.unlink()


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A temporary folder that the caller fills; it takes the name ``destination`` on success.

    It lies beside its destination, whose parents are created. On an error nothing of it is left.

    Raises:
        OSError: the folder cannot be created or renamed; renaming fails if ``destination`` holds anything.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as scratch:
        folder = Path(scratch) / destination.name
        folder.mkdir()
        yield folder
        folder.rename(destination)
