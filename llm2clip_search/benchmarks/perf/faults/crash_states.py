"""What a disk may hold after a power cut: all that was flushed, and any part of what was not.

The model is harsher than file systems are. Contents of a file are safe when it has been flushed, and names in a folder
when the folder has been flushed; of everything else any subset may have arrived, in any order, and of a write any part.
A rename arrives as a whole or not at all.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from llm2clip_search.benchmarks.perf.faults.disk import Operation

SECTOR = 512
"""Bytes that a disk writes as a whole."""
SHARES = (0.0, 0.2, 0.5, 0.8, 1.0)
"""Of the changes that were not flushed, about this share has arrived; one is drawn for each state."""


@dataclass
class _Change:
    """A change of one file, or of names in one or two folders. Files and folders are numbers."""

    file: int = -1
    offset: int = 0
    data: bytes | None = None
    """Is written at the offset; None cuts the file off there."""
    names: list[tuple[int, str, int | None]] = field(default_factory=list)
    """Folder, name, and what it stands for from then on."""
    is_safe: bool = False


class _Tree:
    """Files and folders by number; 0 is the top."""

    def __init__(self, folder: Path) -> None:
        self.contents: list[bytearray | dict[str, int]] = [{}]
        self._read(folder, 0)

    def _read(self, folder: Path, number: int) -> None:
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                continue
            self.names(number)[path.name] = self.add({} if path.is_dir() else bytearray(path.read_bytes()))
            if path.is_dir():
                self._read(path, len(self.contents) - 1)

    def add(self, content: bytearray | dict[str, int]) -> int:
        self.contents.append(content)
        return len(self.contents) - 1

    def names(self, number: int) -> dict[str, int]:
        names = self.contents[number]
        assert isinstance(names, dict), "it is a folder"
        return names

    def data(self, number: int) -> bytearray:
        data = self.contents[number]
        assert isinstance(data, bytearray), "it is a file"
        return data

    def find(self, path: str) -> int:
        number = 0
        for name in PurePosixPath(path).parts:
            number = self.names(number)[name]
        return number

    def apply(self, change: _Change, *, most: int | None = None) -> None:
        """Make a change; of a write only the first ``most`` bytes."""
        if change.names:
            for folder, name, number in change.names:
                if number is None:
                    self.names(folder).pop(name, None)
                else:
                    self.names(folder)[name] = number
            return
        data = self.data(change.file)
        written = b"" if change.data is None else change.data[:most]
        end = change.offset + len(written)
        if change.data is None or len(data) < end:
            data[:] = data[:end].ljust(end, b"\0")
        data[change.offset : end] = written

    def write(self, folder: Path, number: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        for name, child in self.names(number).items():
            content = self.contents[child]
            if isinstance(content, dict):
                self.write(folder / name, child)
            else:
                (folder / name).write_bytes(content)


def write_crash_state(
    before: Path, log: Sequence[Operation], folder: Path, chance: random.Random, *, share: float | None = None
) -> None:
    """Make a folder what a disk may hold after a log of operations on another one.

    Args:
        before: what the other one was before them, all of it flushed.
        chance: decides what has arrived of what was not flushed.
        share: about how much of it; one of `SHARES` if it is None.
    """
    seen, kept = _Tree(before), _Tree(before)
    changes: list[_Change] = []
    for operation in log:
        if operation.kind == "fsync":
            _flush(changes, seen.find(operation.path))
        elif (change := _change(operation, seen, kept)) is not None:
            seen.apply(change)
            changes.append(change)
    share = chance.choice(SHARES) if share is None else share
    for change in changes:
        if change.is_safe:
            kept.apply(change)
        elif chance.random() < share:
            sectors = len(change.data or b"") // SECTOR
            is_torn = bool(change.data) and share < 1.0 and chance.random() < 0.5
            kept.apply(change, most=SECTOR * chance.randint(0, sectors) if is_torn else None)
    kept.write(folder)


def _flush(changes: Sequence[_Change], number: int) -> None:
    for change in changes:
        if change.file == number or any(folder == number for folder, _, _ in change.names):
            change.is_safe = True


def _change(operation: Operation, seen: _Tree, kept: _Tree) -> _Change | None:
    """What an operation changes; new files and folders get the same numbers in both trees."""
    if operation.kind == "open":
        return None
    if operation.kind in ("write", "truncate"):
        data = operation.data if operation.kind == "write" else None
        return _Change(file=seen.find(operation.path), offset=operation.offset, data=data)
    path = PurePosixPath(operation.path)
    folder = seen.find(path.parent.as_posix())
    if operation.kind in ("create", "mkdir"):
        is_folder = operation.kind == "mkdir"
        number = seen.add({} if is_folder else bytearray())
        kept.add({} if is_folder else bytearray())
        return _Change(names=[(folder, path.name, number)])
    if operation.kind in ("unlink", "rmdir"):
        return _Change(names=[(folder, path.name, None)])
    to = PurePosixPath(operation.to)
    target = (seen.find(to.parent.as_posix()), to.name, seen.find(operation.path))
    if operation.kind == "link":
        return _Change(names=[target])
    return _Change(names=[(folder, path.name, None), target])
