"""Which files of an index are known to be what was committed, so that a search need not read them whole to find out.

The manifest holds a checksum of every file, but comparing it means to read all of the file. ``checked.json`` holds
the size and times that a file had when it was compared with its checksum, or written with it. A file that still has
them has not been written to since, so that one ``stat`` answers. Any other is compared before its first use: a copied
index once, a damaged file each time.

Nobody can set the time of an inode's last change, so the file system cannot be asked to hide a change. What it does not
notice itself, such as a medium that decays, a full verification finds.
"""

import json
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from llm2clip_search.base.files import file_sha256
from llm2clip_search.errors import DamagedError
from llm2clip_search.store.faults import unreadable

CHECKED = "checked.json"
"""Beside the manifest, which does not name it: without it files are compared again."""
TICK_NS = 20_000_000
"""Coarsest steps of a file system's clock: a file that changed this shortly ago may change without another time."""

State = tuple[str, int, int, int]
"""Checksum, size in bytes, and nanoseconds of the last change of content and inode."""


class CheckedFiles:
    """What is known of the files of one index folder; any number of threads and processes may add to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def knows(self, path: Path, sha256: str) -> bool:
        """True if a file is as it was when it had a checksum.

        Raises:
            OSError: it is missing, or cannot be reached.
        """
        return self._known.get(self._name(path)) == _state(path.stat(), sha256)

    def confirm(self, path: Path, sha256: str | None, *, again: bool = False) -> None:
        """Compare a file with its checksum, unless it is known to have it.

        Args:
            sha256: None if an earlier version wrote the file without one, and nobody can tell.
            again: compare it in any case.

        Raises:
            DamagedError: it is missing or another one.
            StoreError: it cannot be reached.
        """
        if sha256 is None:
            return
        try:
            if not again and self.knows(path, sha256):
                return
            before = path.stat()
            found = file_sha256(path)
        except OSError as error:
            raise unreadable(path, error) from error
        if found != sha256:
            raise DamagedError(f"{path} differs from what was committed: its checksum is not the manifest's.")
        if not again:
            self.note({path: (sha256, before)})

    def note(self, files: Mapping[Path, tuple[str, os.stat_result]], *, named: Collection[str] | None = None) -> None:
        """Remember files that have just been compared.

        A folder that cannot be written is no error: this process alone knows of them then.

        Args:
            files: their checksums, and their states from before they were read.
            named: paths relative to the folder, posix; what is known of other files is forgotten.
        """
        recent = time.time_ns() - TICK_NS
        known = {
            self._name(path): _state(state, sha256)
            for path, (sha256, state) in files.items()
            if max(state.st_mtime_ns, state.st_ctime_ns) < recent
        }
        others = _read(self.folder / CHECKED) | self._known  # another process may have added to it
        if named is not None:
            others = {name: state for name, state in others.items() if name in named}
        self._known = others | known
        temporary = self.folder / f".{CHECKED}.{os.getpid()}.tmp"
        try:
            # Not flushed: after a power cut files are compared again.
            temporary.write_bytes(json.dumps(self._known).encode())
            temporary.replace(self.folder / CHECKED)
        except OSError:
            with suppress(OSError):
                temporary.unlink()

    @cached_property
    def _known(self) -> dict[str, State]:
        return _read(self.folder / CHECKED)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _state(found: os.stat_result, sha256: str) -> State:
    return sha256, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> dict[str, State]:
    """Entries of a file, none if it is missing or damaged."""
    try:
        read = json.loads(path.read_bytes())
        return {name: (str(sha256), *map(int, numbers)) for name, (sha256, *numbers) in read.items()}  # type: ignore[misc]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
