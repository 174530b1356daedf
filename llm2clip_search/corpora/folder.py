"""A folder of image files as a corpus."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from llm2clip_search.corpora.corpus import Corpus, Item
from llm2clip_search.encoders.images import register_plugins
from llm2clip_search.errors import CorpusError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".llm2clipignore"
SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"})
"""Folders that hold no photographs of the user's: caches, thumbnails, waste bins."""
_NOT_IMAGES = frozenset({".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".wmf", ".emf", ".h5", ".hdf", ".grib", ".bufr"})
"""Extensions that Pillow registers but that are documents, films or need another program."""


def image_extensions() -> frozenset[str]:
    """Lower-case extensions, with the dot, that the installed Pillow and its plug-ins read."""
    register_plugins()
    readable = {ext for ext, name in Image.registered_extensions().items() if name in Image.OPEN}
    return frozenset(readable) - _NOT_IMAGES


class FolderCorpus(Corpus):
    """The image files below a folder, in sorted order.

    Hidden files and folders, `SKIPPED_FOLDERS`, and what ``exclude`` or a ``.llm2clipignore`` in the folder matches
    are left out. Links are followed; a folder is entered once, so loops end. An item's URI is its path as the root was
    given, its version the time of its last change.
    """

    def __init__(self, root: str | os.PathLike[str], *, exclude: str | Sequence[str] = ()) -> None:
        """``exclude`` holds gitignore patterns, relative to the folder, or is one."""
        self.root = Path(root).expanduser()
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self._unreadable: dict[str, str] = {}

    @property
    def uri(self) -> str:
        return str(self.root)

    def items(self) -> Iterator[Item]:
        """Walk the folder.

        Raises:
            CorpusError: the root is missing, is not a folder, or cannot be read; an ignore file or a pattern that
                cannot be read.
        """
        self._check_root()
        ignored = self._ignored()
        extensions = image_extensions()
        self._unreadable = {}
        seen: set[tuple[int, int]] = set()
        pending = [self.root]
        while pending:
            folder = pending.pop()
            entries = self._entries(folder, seen)
            folders: list[Path] = []
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith(".") or entry.name in SKIPPED_FOLDERS:
                    continue
                try:
                    is_folder = entry.is_dir()
                    name = path.relative_to(self.root).as_posix() + ("/" if is_folder else "")
                    if ignored.patterns and ignored.match_file(name):
                        continue
                    if is_folder:
                        folders.append(path)
                    elif path.suffix.lower() in extensions and entry.is_file():
                        status = entry.stat()
                        yield Item(
                            uri=entry.path,
                            version=str(status.st_mtime_ns),
                            size=status.st_size,
                            mtime_ns=status.st_mtime_ns,
                        )
                except OSError as error:
                    self._unreadable[str(path)] = error.strerror or str(error)
            pending.extend(reversed(folders))

    def open(self, uri: str) -> bytes:
        return Path(uri).read_bytes()

    def unreadable(self) -> dict[str, str]:
        return dict(self._unreadable)

    def looked_for(self) -> str:
        some = [ext for ext in (".jpg", ".png", ".webp", ".heic", ".avif") if ext in image_extensions()]
        return f"{', '.join(some)} and others"

    def _entries(self, folder: Path, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
        """What a folder holds, sorted; nothing if it was entered before or cannot be read."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                return []
            seen.add((status.st_dev, status.st_ino))
            return sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == self.root:
                raise CorpusError(f"{self.root} cannot be read: {error.strerror}.") from error
            self._unreadable[str(folder)] = error.strerror or str(error)
            return []

    def _check_root(self) -> None:
        try:
            exists, is_folder = self.root.exists(), self.root.is_dir()
        except OSError as error:  # a name that is too long, a parent that may not be entered
            raise CorpusError(f"{self.root} cannot be read: {error.strerror}.") from error
        if not exists:
            raise CorpusError(f"There is no folder {self.root}.")
        if not is_folder:
            raise CorpusError(f"{self.root} is a file, not a folder.", hint="Name the folder that holds it.")

    def _ignored(self) -> "GitIgnoreSpec":
        from pathspec import GitIgnoreSpec

        file, lines = self.root / IGNORE_FILE, []
        if file.is_file():
            try:
                lines = file.read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise CorpusError(f"{file} cannot be read as UTF-8 text: {error}.") from error
        try:
            return GitIgnoreSpec.from_lines([*self.exclude, *lines])
        except ValueError as error:
            source = f"{file} or the patterns to exclude" if lines else "The patterns to exclude"
            raise CorpusError(
                f"{source} contain something that is not a gitignore pattern: {error}.", hint="See --exclude."
            ) from error
