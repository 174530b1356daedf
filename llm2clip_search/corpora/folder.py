"""Which files of a folder are images to index."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from llm2clip_search.encoders.images import register_plugins
from llm2clip_search.errors import CorpusError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".llm2clipignore"
SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"})
"""Folders that hold no photographs of the user's: caches, thumbnails, waste bins."""
_NOT_IMAGES = frozenset({".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".wmf", ".emf", ".h5", ".hdf", ".grib", ".bufr"})
"""Extensions that Pillow registers but that are documents, films or need an outside program."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """A file as the walk saw it."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(kw_only=True)
class Walk:
    """What a walk found, and where it could not look."""

    files: list[FoundFile] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    """Folders and files with the reason; nothing below them is known to be gone."""


def image_extensions() -> frozenset[str]:
    """Lower-case extensions, with the dot, that the installed Pillow and its plug-ins read."""
    register_plugins()
    readable = {ext for ext, name in Image.registered_extensions().items() if name in Image.OPEN}
    return frozenset(readable) - _NOT_IMAGES


def walk_images(root: Path, *, exclude: Sequence[str] = ()) -> Walk:
    """Find images below ``root``, in sorted order.

    Hidden files and folders, `SKIPPED_FOLDERS` and what ``exclude`` or a ``.llm2clipignore`` in
    ``root`` matches (gitignore patterns) are left out. Links are followed; a folder is entered once,
    so loops end.

    Raises:
        CorpusError: ``root`` is missing, no folder, or unreadable.
    """
    _check_folder(root)
    ignored = _ignored(root, exclude)
    extensions = image_extensions()
    found = Walk()
    seen: set[tuple[int, int]] = set()
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise CorpusError(f"{root} cannot be read: {error.strerror}.") from error
            found.unreadable.append((folder, error.strerror or str(error)))
            continue
        folders: list[Path] = []
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or entry.name in SKIPPED_FOLDERS:
                continue
            try:
                is_folder = entry.is_dir()
                name = path.relative_to(root).as_posix() + ("/" if is_folder else "")
                if ignored.patterns and ignored.match_file(name):
                    continue
                if is_folder:
                    folders.append(path)
                elif path.suffix.lower() in extensions and entry.is_file():
                    status = entry.stat()
                    found.files.append(FoundFile(path=path, size=status.st_size, mtime_ns=status.st_mtime_ns))
            except OSError as error:
                found.unreadable.append((path, error.strerror or str(error)))
        pending.extend(reversed(folders))
    return found


def _check_folder(root: Path) -> None:
    try:
        exists, is_folder = root.exists(), root.is_dir()
    except OSError as error:  # a name that is too long, a parent that may not be entered
        raise CorpusError(f"{root} cannot be read: {error.strerror}.") from error
    if not exists:
        raise CorpusError(f"There is no folder {root}.")
    if not is_folder:
        raise CorpusError(f"{root} is a file, not a folder; name the folder that holds it.")


def _ignored(root: Path, exclude: Sequence[str]) -> "GitIgnoreSpec":
    from pathspec import GitIgnoreSpec

    file, lines = root / IGNORE_FILE, []
    if file.is_file():
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{file} cannot be read as UTF-8 text: {error}.") from error
    try:
        return GitIgnoreSpec.from_lines([*exclude, *lines])
    except ValueError as error:
        raise CorpusError(f"--exclude or {file} holds what is no gitignore pattern: {error}.") from error
