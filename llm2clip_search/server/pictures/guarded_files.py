"""Files of this machine, opened so that nothing but what was indexed is served through a link.

Whoever may write into a folder of photographs can put a link where a photograph was, or where a folder was, and have
it lead anywhere. The path to the source's own folder is the owner's and may have links. Below it, a path without links
is opened component by component, so that none can appear meanwhile. A path with links, such as one into a linked folder
of photographs, leads to the indexed file or to nothing: the file must have the times of last change that the index
knows, of which nobody can set that of the inode, or the content that was indexed.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from llm2clip_search.corpora.file_status import FileStatus

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""Opening a pipe that has taken the place of a file must not wait for a writer."""
_BLOCK = 1 << 20
LARGEST = 1 << 30
"""Bytes of a file, or of a part of one, that is held in memory to be decoded."""


class _LinkedError(OSError):
    """A path has a link in it."""


class GuardedFiles:
    """Files as `corpora.files.Files` has them, for one row of an index."""

    is_remote = False

    def __init__(self, root: str, *, version: str, size: int, content_hash: str) -> None:
        """
        Args:
            root: absolute path of the folder whose links are trusted.
            version: the row's mark of its file.
            size: bytes of the row's content.
            content_hash: BLAKE2b-128 of the row's content, hex.
        """
        self._root = PurePath(root)
        self._mark, self._size, self._content_hash = version.rpartition("@")[2], size, content_hash

    def open(self, uri: str) -> BinaryIO:
        """A regular file to read and seek in.

        Raises:
            OSError: it is not there, is no regular file, or is reached by a link and is not what was indexed.
        """
        try:
            try:
                descriptor = _open_without_links(self._root, PurePath(uri))
            except _LinkedError:
                descriptor = self._open_indexed(uri)
        except ValueError as error:  # a null byte in the name
            raise FileNotFoundError(errno.ENOENT, "no such file", uri) from error
        return os.fdopen(descriptor, "rb")

    def read(self, uri: str) -> bytes:
        with self.open(uri) as file:
            check_size(os.fstat(file.fileno()).st_size, uri)
            return file.read(LARGEST)

    def read_range(self, uri: str, offset: int, size: int) -> bytes:
        check_size(size, uri)
        with self.open(uri) as file:
            return os.pread(file.fileno(), size, offset)

    def status(self, uri: str) -> "FileStatus":
        from llm2clip_search.corpora.files import file_status

        with self.open(uri) as file:
            return file_status(uri, os.fstat(file.fileno()))

    def walk(self, uri: str) -> Iterator["FileStatus"]:
        raise PermissionError(errno.EACCES, "folders are not listed", uri)

    def _open_indexed(self, uri: str) -> int:
        """The descriptor of a file that is reached by links, if it is the one that was indexed."""
        from llm2clip_search.corpora.files import file_status

        _check_regular(os.stat(uri), uri)  # noqa: PTH116 - opening a device can have effects
        descriptor = os.open(uri, _FILE)
        try:
            found = os.fstat(descriptor)
            _check_regular(found, uri)
            is_same = ":" in self._mark and file_status(uri, found).version == self._mark
            if not is_same and (found.st_size != self._size or _hash(descriptor) != self._content_hash):
                raise FileNotFoundError(
                    errno.ENOENT, "it is reached by a link, and has changed since it was indexed", uri
                )
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def check_size(size: int, uri: str) -> None:
    """Refuse to hold a file in memory that is too large for that."""
    if size > LARGEST:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {LARGEST:,}", uri)


def _open_without_links(root: PurePath, path: PurePath) -> int:
    """The descriptor of a regular file below a folder; links are followed only on the way to that folder.

    Raises:
        _LinkedError: there is a link below the folder, the path does not lie in it, or this system cannot tell.
        OSError: the file is not there, cannot be read, or is no regular file.
    """
    *folders, name = path.relative_to(root).parts if root in path.parents else ("..",)
    if ".." in (*folders, name) or os.open not in os.supports_dir_fd:
        raise _LinkedError
    above = os.open(root, _FOLDER & ~os.O_NOFOLLOW)
    try:
        for folder in folders:
            try:
                inner = os.open(folder, _FOLDER, dir_fd=above)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):  # a link is no folder
                    raise _LinkedError from error
                raise
            os.close(above)
            above = inner
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            raise _LinkedError
        _check_regular(found, str(path))
        descriptor = os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=above)
    finally:
        os.close(above)
    try:
        _check_regular(os.fstat(descriptor), str(path))  # it may have been replaced meanwhile
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a file", path)


def _hash(descriptor: int) -> str:
    """BLAKE2b-128 of a file's content, hex; the position stays."""
    digest, offset = hashlib.blake2b(digest_size=16), 0
    while block := os.pread(descriptor, _BLOCK, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()
