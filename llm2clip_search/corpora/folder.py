"""A folder of image files as a corpus."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2clip_search.corpora.companions import Companions, SidecarColumns, own_columns, sidecar_mark
from llm2clip_search.corpora.container import Container
from llm2clip_search.corpora.containers import container_uri, open_item
from llm2clip_search.corpora.corpus import Corpus, Item
from llm2clip_search.corpora.files import LocalFiles, file_status
from llm2clip_search.corpora.named import item_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.rules import (
    IGNORE_FILE,
    extensions_in_folder,
    images_looked_for,
    missing_extra,
    patterns,
    reader_in_folder,
    why_not,
)
from llm2clip_search.corpora.skipped import Reason, Skipped
from llm2clip_search.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa
    from pathspec import GitIgnoreSpec


class FolderCorpus(Corpus):
    """The image files below a folder, in sorted order.

    System folders (`skipped.SYSTEM_FOLDERS`), hidden files and folders, and what ``exclude`` or a ``.llm2clipignore``
    in the folder matches are left out. Links are followed; a folder is entered once, so loops end. An item's URI is its
    path as the root was given, its version the times of its last changes (content, and anything else). A RAW file
    beside an image of the same name is left out, and an XMP sidecar describes the image beside it (`companions`).
    """

    sees_sidecars = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        exclude: str | Sequence[str] = (),
        everything: bool = False,
        options: SourceOptions = SourceOptions(),
        part_of: str | os.PathLike[str] | None = None,
    ) -> None:
        """A folder that is read when `items` is called.

        Args:
            exclude: gitignore patterns, relative to the folder, or one of them.
            everything: read hidden files and system folders too.
            options: how else it is read; ``kind`` tar or table reads such files only.
            part_of: a folder above ``root`` whose patterns these are, and whose ignore file counts.
        """
        self.root = Path(root).expanduser()
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self.everything = everything
        self.modality, self.options, self._options = options.modality, options.to_dict(), options
        self.part_of = "" if part_of is None else os.fspath(part_of)
        self._top = Path(part_of or self.root)
        self._unreadable: dict[str, str] = {}
        self._skipped = Skipped()
        self._dangling: list[str] = []
        self._mounts: list[str] = []
        self._fileless: dict[str, int] = {}
        """Folders that hold nothing but folders, with the number of these, parents first."""

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
        extensions = extensions_in_folder(self._options)
        self._unreadable, self._skipped, self._fileless = {}, Skipped(), {}
        self._dangling, self._mounts = [], []
        seen: set[tuple[int, int]] = set()
        pending: list[tuple[Path, int | None]] = [(self.root, None)]
        while pending:
            folder, device_above = pending.pop()
            if (entered := self._enter(folder, seen)) is None:
                continue
            device, entries = entered
            if device_above not in (None, device) and not folder.is_symlink():
                self._mounts.append(str(folder))
            companions = self._companions(folder, entries, extensions, ignored)
            folders: list[Path] = []
            count = len(entries)
            entries.reverse()
            while entries:  # an entry keeps what was asked of it: 600 bytes for each of a million files
                entry = entries.pop()
                path = Path(entry.path)
                try:
                    is_folder = entry.is_dir()
                    is_image = not is_folder and path.suffix.lower() in extensions
                    if (why := self._why_not(path, ignored, is_folder=is_folder)) is not None:
                        self._skipped.add(path.name, why, is_folder=is_folder, is_image=is_image)
                        continue
                    if is_folder:
                        folders.append(path)
                    elif entry.is_symlink() and not path.exists():
                        self._dangling.append(entry.path)
                    elif companions.is_shown(path.name):
                        self._skipped.raw += 1
                    elif (is_image or self.lists(path.name)) and entry.is_file():
                        item = item_of(file_status(entry.path, entry.stat()), is_container=not is_image)
                        sidecar = companions.sidecar(path.name) if is_image else None
                        yield item if sidecar is None else self._with_sidecar(item, folder / sidecar)
                    else:
                        extra = "" if is_image else missing_extra(path.name, self._options)
                        self._skipped.add_unread(path.name, is_image=is_image, extra=extra)
                except OSError as error:
                    self._unreadable[str(path)] = error.strerror or str(error)
            if len(folders) == count:
                self._fileless[str(folder)] = len(folders)
            pending.extend((each, device) for each in reversed(folders))

    def _companions(
        self, folder: Path, entries: list[os.DirEntry[str]], extensions: frozenset[str], ignored: "GitIgnoreSpec"
    ) -> Companions:
        def is_listed(name: str) -> bool:
            return self._why_not(folder / name, ignored, is_folder=False) is None

        return Companions(
            [entry.name for entry in entries],
            is_listed=is_listed,
            extensions=extensions,
            separate_raw=self._options.separate_raw,
        )

    def _with_sidecar(self, item: Item, sidecar: Path) -> Item:
        def report(note: str) -> None:
            self._skipped.notes[note] += 1

        try:
            return replace(item, columns=SidecarColumns(sidecar, report=report), described=sidecar_mark(sidecar))
        except OSError:  # a link without target, or it was removed a moment ago
            return item

    @cached_property
    def _patterns(self) -> "GitIgnoreSpec":
        """The patterns as they were when first asked for; a walk reads them anew."""
        return self._ignored()

    def covers(self, path: Path, *, is_folder: bool) -> bool:
        """True if nothing leaves out a path below this folder: neither its name, nor a parent's, nor a pattern."""
        ignored, parts = self._patterns, path.relative_to(self.root).parts
        folders = (self.root.joinpath(*parts[: number + 1]) for number in range(len(parts) - (not is_folder)))
        return not (
            any(self._why_not(folder, ignored, is_folder=True) for folder in folders)
            or (not is_folder and self._why_not(path, ignored, is_folder=False))
        )

    def parts(self, container: Item) -> Iterator[Item]:
        reader = self._reader(container.uri)
        assert reader is not None, "only containers have parts"
        is_empty = True
        for part in reader.parts(LocalFiles(), container, self._options):
            is_empty = False
            yield part
        if is_empty:
            self._skipped.notes[f"files without {self.modality}s"] += 1

    def schema(self, container: Item | None = None) -> "pa.Schema | None":
        reader = None if container is None else self._reader(container.uri)
        if container is None or reader is None:
            return None
        return reader.schema(LocalFiles(), container, self._options)

    def lists(self, container: str) -> bool:
        reader = self._reader(container)
        return reader is not None and not reader.extra

    def open(self, item: Item) -> bytes:
        return open_item(item, LocalFiles())

    def own_columns(self, item: Item) -> Mapping[str, Any] | None:
        return None if container_uri(item.uri)[1] else own_columns(Path(item.uri))

    def _reader(self, name: str) -> Container | None:
        return reader_in_folder(name, self._options)

    def unreadable(self) -> dict[str, str]:
        return dict(self._unreadable)

    def vacant(self) -> list[str]:
        """Links whose target is missing, and the topmost folders without any file in or below them."""
        left, empty = dict(self._fileless), set[str]()
        for folder in reversed(self._fileless):
            if not left[folder]:
                empty.add(folder)
                parent = str(Path(folder).parent)
                if parent in left:
                    left[parent] -= 1
        return [*self._dangling, *(folder for folder in self._fileless if _is_topmost(folder, empty))]

    def mounts(self) -> list[str]:
        return list(self._mounts)

    def skipped(self) -> Skipped:
        return self._skipped

    def looked_for(self) -> str:
        return "text files" if self.modality == "text" else images_looked_for()

    def _why_not(self, path: Path, ignored: "GitIgnoreSpec", *, is_folder: bool) -> Reason | None:
        """Why a file or folder is passed over; None if it is not."""
        relative = path.relative_to(self._top).as_posix()
        return why_not(relative, ignored, everything=self.everything, is_folder=is_folder)

    def _enter(self, folder: Path, seen: set[tuple[int, int]]) -> tuple[int, list[os.DirEntry[str]]] | None:
        """A folder's device and what it holds, sorted; None if it was entered before or cannot be read."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                return None
            seen.add((status.st_dev, status.st_ino))
            return status.st_dev, sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == self.root:
                raise CorpusError(f"{self.root} cannot be read: {error.strerror}.") from error
            self._unreadable[str(folder)] = error.strerror or str(error)
            return None

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
        file = self._top / IGNORE_FILE
        try:
            content = file.read_bytes() if file.is_file() else None
        except OSError as error:
            raise CorpusError(f"{file} cannot be read: {error}.") from error
        return patterns(self.exclude, str(file), content)


def _is_topmost(folder: str, folders: set[str]) -> bool:
    return folder in folders and str(Path(folder).parent) not in folders
