"""Checksums of files that have not changed since they were read, so that they need not be read again to find out.

A record holds the size and times that a file had when its checksum was taken. A file that still has them has not been
written to since, so that one ``stat`` answers. Nobody can set the time of an inode's last change, so the file system
cannot be asked to hide a change. What it does not notice itself, such as a medium that decays, is not noticed here.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from llm2clip_search.base.files import file_sha256

CHECKED = "checked.json"
"""Name of a record; without it files are read again."""
TICK_NS = 20_000_000
"""Coarsest steps of a file system's clock: a file that changed this shortly ago may change without another time."""

State = tuple[str, int, int, int]
"""Checksum, size in bytes, and nanoseconds of the last change of content and inode."""


class KnownChecksums:
    """What is known of files in a folder and elsewhere; any number of threads and processes may add to it."""

    def __init__(self, folder: Path) -> None:
        """The record lies in ``folder``, and names files in it by relative paths, so that the folder can be moved."""
        self.folder = folder

    def knows(self, path: Path, sha256: str) -> bool:
        """True if a file is as it was when it had a checksum.

        Raises:
            OSError: it is missing, or cannot be reached.
        """
        return self._known.get(self._name(path)) == _state(path.stat(), sha256)

    def sha256(self, path: Path) -> str:
        """Hex SHA-256 of a file, which is read only if it may have changed since that was last asked.

        Raises:
            OSError: it cannot be read.
        """
        before, known = path.stat(), self._known.get(self._name(path))
        if known is not None and known == _state(before, known[0]):
            return known[0]
        found = file_sha256(path)
        self.note({path: (found, before)})
        return found

    def note(
        self,
        files: Mapping[Path, tuple[str, os.stat_result]],
        *,
        keep: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """Remember files whose checksums have just been taken.

        A folder that cannot be written is no error: this process alone knows of them then.

        Args:
            files: their checksums, and their states from before they were read.
            keep: whether another file, by its name in the record, stays in it.
        """
        recent = time.time_ns() - TICK_NS
        known = {
            self._name(path): _state(state, sha256)
            for path, (sha256, state) in files.items()
            if max(state.st_mtime_ns, state.st_ctime_ns) < recent
        }
        others = _read(self.folder / CHECKED) | self._known  # another process may have added to it
        self._known = {name: state for name, state in others.items() if keep(name) and not _is_gone(name)} | known
        temporary = self.folder / f".{CHECKED}.{os.getpid()}.tmp"
        try:
            # Not flushed: after a power cut files are read again.
            temporary.write_bytes(json.dumps(self._known).encode())
            temporary.replace(self.folder / CHECKED)
        except OSError:
            with suppress(OSError):
                temporary.unlink()

    @cached_property
    def _known(self) -> dict[str, State]:
        return _read(self.folder / CHECKED)

    def _name(self, path: Path) -> str:
        """Relative to the folder, posix; absolute outside of it."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path.absolute())


def _is_gone(name: str) -> bool:
    """True for a file outside of a record's folder that is not there: nobody else would remove its entry."""
    try:
        return Path(name).is_absolute() and not Path(name).exists()
    except OSError:  # it lies where only another user may look
        return False


def _state(found: os.stat_result, sha256: str) -> State:
    return sha256, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> dict[str, State]:
    """Entries of a file, none if it is missing or damaged."""
    try:
        read = json.loads(path.read_bytes())
        return {name: (str(sha256), *map(int, numbers)) for name, (sha256, *numbers) in read.items()}  # type: ignore[misc]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
