"""Files wherever they are: on this machine, in an object store, on a web server."""

import errno
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

from llm2clip_search.base.files import open_regular
from llm2clip_search.corpora.file_status import FileStatus
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.errors import CorpusError

LARGEST = 4 << 30
"""Bytes of a file of this machine that is read whole."""


class Files(Protocol):
    """A place that holds files. Everything may be called from several threads at once."""

    is_remote: bool
    """True if each read is a request to another machine, so that reading on is cheaper than reading here and there."""

    def status(self, uri: str) -> FileStatus:
        """Look at one file.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be looked at.
        """

    def walk(self, uri: str) -> Iterator[FileStatus]:
        """All files below a folder or prefix, in the order of their names; subfolders included.

        Raises:
            OSError: it cannot be listed.
        """

    def read(self, uri: str) -> bytes:
        """The bytes of a file.

        Raises:
            OSError: it cannot be read.
        """

    def read_range(self, uri: str, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end of the file.

        Raises:
            OSError: it cannot be read.
        """

    def open(self, uri: str) -> BinaryIO:
        """A file to read and seek in; one of a network reads ahead in large ranges, so reading on is cheap.

        Raises:
            OSError: it cannot be read.
        """


class LocalFiles:
    """Files of this machine; URIs are paths."""

    is_remote = False

    def status(self, uri: str) -> FileStatus:
        return file_status(uri, os.stat(uri))  # noqa: PTH116 - a string in, a million times

    def walk(self, uri: str) -> Iterator[FileStatus]:
        for path in sorted(Path(uri).rglob("*")):
            if path.is_file():
                yield self.status(str(path))

    def read(self, uri: str) -> bytes:
        with open_regular(uri) as file:
            if (size := os.fstat(file.fileno()).st_size) > LARGEST:
                raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {LARGEST:,}", uri)
            return file.read(size)

    def read_range(self, uri: str, offset: int, size: int) -> bytes:
        with open_regular(uri) as file:
            return os.pread(file.fileno(), size, offset)

    def open(self, uri: str) -> BinaryIO:
        return open_regular(uri)


_LOCAL = LocalFiles()


def file_status(uri: str, status: os.stat_result) -> FileStatus:
    """A file of this machine; its version changes with its content, its name and whatever else its times tell."""
    return FileStatus(
        uri=uri,
        size=status.st_size,
        version=f"{status.st_mtime_ns}:{status.st_ctime_ns}",
        former_version=str(status.st_mtime_ns),
        mtime_ns=status.st_mtime_ns,
    )


def files_of(uri: str, options: SourceOptions = SourceOptions()) -> Files:
    """The place that a path or URI names.

    Raises:
        CorpusError: a scheme that nothing here reads, or whose package is missing; the hint names the extra.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _LOCAL
    scheme = scheme.lower()
    return _web(options.allow_private) if scheme in ("http", "https") else _elsewhere(scheme, rest.partition("/")[0])


@lru_cache(maxsize=64)
def _elsewhere(scheme: str, host: str) -> Files:
    """A place that is not this machine; all who read from it share its connections."""
    from llm2clip_search.corpora.object_store import EXTRAS, ObjectStoreFiles

    if scheme in EXTRAS:
        return ObjectStoreFiles(f"{scheme}://{host}")
    from llm2clip_search.corpora.fsspec_files import FsspecFiles

    return FsspecFiles(f"{scheme}://{host}")


@lru_cache
def _web(allow_private: bool) -> Files:
    from llm2clip_search.corpora.web import WebFiles

    return WebFiles(allow_private=allow_private)


def beside(uri: str, name: str) -> str:
    """What a file calls ``name``: a URI or an absolute path as it is, otherwise relative to the file's folder.

    >>> beside("s3://bucket/photos/list.csv", "2024/a.jpg")
    's3://bucket/photos/2024/a.jpg'
    """
    scheme, separator, rest = uri.partition("://")
    if "://" in name or (not separator and os.path.isabs(name)):  # noqa: PTH117 - strings in, a million times
        return name
    folder, slash, _ = (rest if separator else uri).rpartition("/")
    path = os.path.normpath(f"{folder}{slash}{name}")
    return f"{scheme}://{path}" if separator else path


def unreadable(uri: str, error: OSError) -> CorpusError:
    """The error to raise for a file or folder that cannot be looked at, with what helps."""
    return CorpusError(f"{uri} cannot be read: {error.strerror or error}.", hint=_hint(str(error)))


def _hint(reason: str) -> str:
    if "private network" in reason:
        return "Use --allow-private if that is what you want."
    if "credentials" in reason or "denies access" in reason:
        return (
            "Credentials are those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of AWS_PROFILE, or of the machine; a"
            " public bucket is read with AWS_SKIP_SIGNATURE=true."
        )
    return "Set AWS_REGION to the region of the bucket." if "region" in reason else ""
