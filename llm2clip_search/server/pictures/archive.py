"""Originals as one zip file that is made while it is sent."""

import io
import os
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from llm2clip_search.errors import ImageError
from llm2clip_search.server.pictures.originals import Download, Original
from llm2clip_search.server.problems import Problem

BLOCK = 1 << 20
"""Bytes that are read at a time, and that a block of the archive has at least."""
MISSING = "missing.txt"
"""What says which originals are not in the archive, and why."""
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|]')
"""What no file of any system has in its name, or what leads to another folder."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Devices of Windows."""
_LONGEST = 180
"""Bytes of a name."""


def zipped(identifiers: Iterable[str], find: Callable[[str], Original]) -> Iterator[bytes]:
    """The blocks of a zip file; images are compressed already, so they are stored.

    A file that several rows are parts of is there once. What cannot be read is named in `MISSING`; the rest goes on.

    Args:
        find: gives the original of an id when it is its turn; may raise a `Problem`.
    """
    sink, names, missing, files = _Sink(), _Names(), list[str](), set[str]()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for identifier in identifiers:
            try:
                given = find(identifier)
                if given.whole in files:
                    continue
                files.add(given.whole)
                download = given.download()
            except (Problem, ImageError) as error:
                missing.append(str(error))
                continue
            with download.file:
                yield from _member(archive, download, names.unused(download.name), sink, missing)
        if missing:
            archive.writestr(_info(names.unused(MISSING)), "".join(f"{line}\n" for line in missing))
    yield sink.take()


def _member(
    archive: zipfile.ZipFile, download: Download, name: str, sink: "_Sink", missing: list[str]
) -> Iterator[bytes]:
    info = _info(name)
    info.file_size = download.size  # whether it needs more than 32 bits is decided before it is read
    left = download.size
    with archive.open(info, "w") as member:
        while left:
            try:
                block = download.file.read(min(BLOCK, left))
            except OSError as error:
                missing.append(f"{name} ends early: {error.strerror or error}.")
                return
            if not block:
                missing.append(f"{name} ends early: the file was cut meanwhile.")
                return
            left -= len(block)
            member.write(block)
            if sink.size >= BLOCK:
                yield sink.take()


def _info(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, time.localtime()[:6])


class _Sink(io.RawIOBase):
    """A file that is written to and cannot be sought in, so that the archive's headers need not be changed later."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: "io.ReadableBuffer") -> int:  # type: ignore[name-defined]
        self._blocks.append(bytes(data))
        self.size += len(self._blocks[-1])
        return len(self._blocks[-1])

    def take(self) -> bytes:
        """What was written since it was last asked."""
        taken, self._blocks, self.size = b"".join(self._blocks), [], 0
        return taken


class _Names:
    """Names of members: safe on every system, and each once, even where case does not count."""

    def __init__(self) -> None:
        self._used = set[str]()

    def unused(self, name: str) -> str:
        plain = _plain(name)
        stem, suffix = os.path.splitext(plain)  # noqa: PTH122 - a name, not a path
        found, number = plain, 1
        while found.casefold() in self._used:
            number += 1
            found = f"{stem} ({number}){suffix}"
        self._used.add(found.casefold())
        return found


def _plain(name: str) -> str:
    shown = _FORBIDDEN.sub("_", name).strip(" .") or "file"
    shown = f"_{shown}" if _RESERVED.fullmatch(shown) else shown
    suffix = PurePosixPath(shown).suffix[:20]
    stem = shown.removesuffix(suffix) if suffix else shown
    while len(f"{stem}{suffix}".encode()) > _LONGEST:
        stem = stem[:-1]
    return f"{stem}{suffix}"
