"""Files of web servers."""

import tempfile
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import BinaryIO, cast

from llm2clip_search.corpora.fetch import FetchConfig, Fetched, Fetcher
from llm2clip_search.corpora.file_status import FileStatus
from llm2clip_search.corpora.range_file import buffered


class WebFiles:
    """Files that have a URL. Connections are shared by all threads."""

    is_remote = True

    def __init__(self, *, allow_private: bool = False) -> None:
        """Any server.

        Args:
            allow_private: reach addresses of this machine and of private networks too.
        """
        self._fetcher = Fetcher(FetchConfig(allow_private=allow_private))

    def status(self, uri: str) -> FileStatus:
        found = self._fetcher.request(uri, method="HEAD")
        size = found.headers.get("content-length", "")
        if found.status in (405, 501):  # no HEAD here
            found = self._fetcher.request(uri, part=(0, 1))
            size = found.headers.get("content-range", "").rpartition("/")[2]
        changed = _time_ns(found)
        etag = found.headers.get("etag", "").removeprefix("W/").strip('"')
        return FileStatus(
            uri=uri,
            size=int(size) if size.isdecimal() else 0,
            version=etag or (f"{changed}:{size}" if changed else ""),
            mtime_ns=changed,
        )

    def walk(self, uri: str) -> Iterator[FileStatus]:
        raise OSError("a web server does not list its files; name them, or a list of them")

    def read(self, uri: str) -> bytes:
        return self._fetcher.image(uri)

    def read_range(self, uri: str, offset: int, size: int) -> bytes:
        if not size:
            return b""
        found = self._fetcher.request(uri, part=(offset, size))
        if found.status == 206:
            return found.body
        return found.body[offset : offset + size] if found.status == 200 else b""

    def open(self, uri: str) -> BinaryIO:
        size = self.status(uri).size
        if size and self._fetcher.request(uri, part=(0, 1)).status == 206:
            return buffered(lambda offset, count: self.read_range(uri, offset, count), size)
        file = tempfile.TemporaryFile()  # the server gives no parts  # noqa: SIM115 - the caller closes it
        self._fetcher.request(uri, into=cast("BinaryIO", file))
        file.seek(0)
        return cast("BinaryIO", file)


def _time_ns(found: Fetched) -> int:
    try:
        return int(parsedate_to_datetime(found.headers.get("last-modified", "")).timestamp()) * 1_000_000_000
    except (TypeError, ValueError):
        return 0
