"""Files of any other place that fsspec knows: Hugging Face's hub, FTP, SFTP, WebDAV, memory, and more."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, cast

from llm2clip_search.corpora.addresses import public_uri, whole_uri
from llm2clip_search.corpora.file_status import FileStatus
from llm2clip_search.errors import CorpusError, first_line

_READ_AHEAD = 8 << 20
_MARKS = ("ETag", "etag", "blob_id", "sha256", "md5Hash", "content_md5", "checksum", "uid")
"""What systems call that which changes with the content."""
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "modify", "updated", "created")


class FsspecFiles:
    """Files below addresses of one scheme and host."""

    is_remote = True

    def __init__(self, root: str) -> None:
        """A place by its address without a path: ``ftp://host``.

        Raises:
            CorpusError: fsspec does not know the scheme, or a package that it needs is not installed.
        """
        scheme = root.partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            self._system: Any = url_to_fs(whole_uri(root))[0]
        except ImportError as error:
            raise CorpusError(f"Reading {scheme}:// addresses needs a package: {first_line(error)}.") from error
        except ValueError as error:
            raise CorpusError(f"Nothing here reads {scheme}:// addresses, as of {public_uri(root)}.") from error
        except Exception as error:  # each system has its own: no such host, a wrong password
            raise CorpusError(f"{public_uri(root)} cannot be opened: {first_line(error)}.") from error
        self._url_to_path: Any = type(self._system)._strip_protocol

    def status(self, uri: str) -> FileStatus:
        with _faults():
            found = self._system.info(self._url_to_path(uri))
            if found.get("type") == "directory":
                raise IsADirectoryError("a folder, not a file")
            return _status(uri, found)

    def walk(self, uri: str) -> Iterator[FileStatus]:
        top = self._url_to_path(uri).rstrip("/")
        with _faults():
            pending = [top]
            while pending:
                entries = sorted(self._system.ls(pending.pop(), detail=True), key=lambda entry: str(entry["name"]))
                folders = [each["name"].rstrip("/") for each in entries if each["type"] == "directory"]
                pending.extend(reversed(folders))
                for entry in entries:
                    if entry["type"] == "file":
                        relative = entry["name"].removeprefix(top).lstrip("/")
                        yield _status(f"{uri.rstrip('/')}/{relative}" if relative else uri, entry)

    def read(self, uri: str) -> bytes:
        with _faults():
            return bytes(self._system.cat_file(self._url_to_path(uri)))

    def read_range(self, uri: str, offset: int, size: int) -> bytes:
        with _faults():
            return bytes(self._system.cat_file(self._url_to_path(uri), start=offset, end=offset + size))

    def write(self, uri: str, data: bytes) -> None:
        """Store a file as a whole, in place of what was there.

        Raises:
            OSError: it cannot be written.
        """
        with _faults():
            path = self._url_to_path(uri)
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(path, data)

    def remove(self, uri: str) -> None:
        """Delete a file, or a folder with what is in it, if it is there.

        Raises:
            OSError: it cannot be deleted.
        """
        with _faults():
            if self._system.exists(path := self._url_to_path(uri)):
                self._system.rm(path, recursive=True)

    def open(self, uri: str) -> BinaryIO:
        with _faults():
            return cast("BinaryIO", self._system.open(self._url_to_path(uri), "rb", block_size=_READ_AHEAD))


def _status(uri: str, found: dict[str, Any]) -> FileStatus:
    size, changed = int(found.get("size") or 0), _time_ns(found)
    mark = next((str(found[name]) for name in _MARKS if found.get(name)), "")
    return FileStatus(uri=uri, size=size, version=mark or (f"{changed}:{size}" if changed else ""), mtime_ns=changed)


def _time_ns(found: dict[str, Any]) -> int:
    value = next((found[name] for name in _TIMES if found.get(name)), 0)
    if isinstance(value, datetime):
        return int(value.timestamp() * 1_000_000) * 1000
    return int(value * 1_000_000) * 1000 if isinstance(value, int | float) else 0


@contextmanager
def _faults() -> Iterator[None]:
    """Make every error of a system an `OSError` of one line.

    Raises:
        OSError: instead of any other.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError("there is no such file") from error
    except OSError:
        raise
    except Exception as error:  # ftplib, paramiko, aiohttp and others have their own
        raise OSError(first_line(error)) from error
