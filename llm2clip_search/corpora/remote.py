"""Folders and buckets elsewhere as corpora, and what an address names."""

from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING

from llm2clip_search.corpora.containers import container_for, open_item
from llm2clip_search.corpora.corpus import Corpus, Item
from llm2clip_search.corpora.files import Files, files_of, unreadable
from llm2clip_search.corpora.kinds import UNKNOWN_HINT
from llm2clip_search.corpora.named import item_of
from llm2clip_search.corpora.options import Kind, SourceOptions
from llm2clip_search.corpora.rules import (
    IGNORE_FILE,
    extensions_in_folder,
    images_looked_for,
    missing_extra,
    patterns,
    reader_in_folder,
    why_not,
)
from llm2clip_search.corpora.skipped import Skipped
from llm2clip_search.corpora.table_columns import kind_of_table
from llm2clip_search.encoders.image_types import image_extensions
from llm2clip_search.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

_LOOKED_AT = 1000
"""Files below a prefix whose names are looked at: one page of a listing."""
_WEB = ("http", "https")


def kind_of_remote(uri: str, options: SourceOptions) -> Kind:
    """What an address names: ``list`` for a table that names images, ``files`` for any other file, and for a folder or
    prefix what it is read for: ``folder`` if there are images, else ``tar`` or ``table``.

    Raises:
        CorpusError: it cannot be read or listed.
    """
    reader = container_for(uri)
    try:
        if reader is not None and reader.kind == "table" and options.modality == "image":
            return "list" if kind_of_table(uri, options) == "list" else "files"
        if reader is not None or _suffix(uri) in image_extensions() or uri.partition("://")[0] in _WEB:
            return "files"
        files = files_of(uri, options)
        names = [each.uri for each in islice(files.walk(uri), _LOOKED_AT)]
        if not names and _is_file(files, uri):
            if options.kind is not None:
                return "files"
            what = _suffix(uri) or "file without a suffix"
            raise CorpusError(f"{uri} is a {what}, which nothing here reads as {options.modality}s.", hint=UNKNOWN_HINT)
    except OSError as error:
        raise unreadable(uri, error) from error
    kinds = {reader.kind for name in names if (reader := container_for(name)) is not None}
    if options.modality == "image" and not any(_suffix(name) in image_extensions() for name in names):
        for kind in kinds & {"tar"} or kinds & {"table"}:
            return "tar" if kind == "tar" else "table"
    return "table" if options.modality == "text" and kinds == {"table"} else "folder"


def matching(pattern: str, options: SourceOptions) -> list[str]:
    """Addresses that a pattern with ``*`` matches, in order.

    Raises:
        CorpusError: there is none, or the place cannot be listed.
    """
    prefix = pattern.partition("*")[0].rpartition("/")[0]
    depth = pattern.count("/")
    try:
        found = files_of(prefix, options).walk(prefix)
        names = [each.uri for each in found if fnmatchcase(each.uri, pattern) and each.uri.count("/") == depth]
    except OSError as error:
        raise unreadable(prefix, error) from error
    if not names:
        raise CorpusError(f"No file matches {pattern}.")
    return names


class RemoteFolder(Corpus):
    """The image files below an address, in the order of their names. The rules are those of `FolderCorpus`, except
    those about several files of one name, which such a listing does not bring together."""

    def __init__(self, uri: str, *, options: SourceOptions = SourceOptions()) -> None:
        """A prefix that is listed when `items` is called.

        Args:
            uri: ``s3://bucket/prefix``, without secrets.
            options: ``kind`` tar or table reads such files only.
        """
        self._uri, self._options = uri.rstrip("/"), options
        self.modality, self.options = options.modality, options.to_dict()
        self.exclude, self.everything = options.exclude, options.everything
        self._skipped = Skipped()

    @property
    def uri(self) -> str:
        return self._uri

    def items(self) -> Iterator[Item]:
        """List the prefix.

        Raises:
            CorpusError: it cannot be listed; an ignore file or a pattern that cannot be read.
        """
        self._skipped = Skipped()
        files = files_of(self._uri, self._options)
        ignore_file, content = f"{self._uri}/{IGNORE_FILE}", None
        with suppress(OSError):  # most have none
            content = files.read(ignore_file)
        ignored, extensions = patterns(self.exclude, ignore_file, content), extensions_in_folder(self._options)
        above: list[str] = []
        depth_left_out = 0
        try:
            for status in files.walk(self._uri):
                relative = status.uri.removeprefix(self._uri).lstrip("/")
                *folders, name = relative.split("/")
                shared = _shared(above, folders)
                if depth_left_out and shared >= depth_left_out:
                    continue
                above, depth_left_out = folders, 0
                for depth in range(shared + 1, len(folders) + 1):  # those entered with this file
                    path = "/".join(folders[:depth])
                    if (why := why_not(path, ignored, everything=self.everything, is_folder=True)) is not None:
                        self._skipped.add(folders[depth - 1], why, is_folder=True, is_image=False)
                        depth_left_out = depth
                        break
                if depth_left_out:
                    continue
                is_image = _suffix(name) in extensions
                if (why := why_not(relative, ignored, everything=self.everything, is_folder=False)) is not None:
                    self._skipped.add(name, why, is_folder=False, is_image=is_image)
                elif is_image or self.lists(name):
                    yield item_of(status, is_container=not is_image)
                else:
                    self._skipped.add_unread(name, is_image=False, extra=missing_extra(name, self._options))
        except OSError as error:
            raise unreadable(self._uri, error) from error

    def parts(self, container: Item) -> Iterator[Item]:
        reader = reader_in_folder(container.uri, self._options)
        assert reader is not None, "only containers have parts"
        return reader.parts(files_of(container.uri, self._options), container, self._options)

    def lists(self, container: str) -> bool:
        reader = reader_in_folder(container, self._options)
        return reader is not None and not reader.extra

    def schema(self, container: Item | None = None) -> "pa.Schema | None":
        reader = None if container is None else reader_in_folder(container.uri, self._options)
        if container is None or reader is None:
            return None
        return reader.schema(files_of(container.uri, self._options), container, self._options)

    def open(self, item: Item) -> bytes:
        return open_item(item, files_of(item.uri, self._options), options=self._options)

    def skipped(self) -> Skipped:
        return self._skipped

    def looked_for(self) -> str:
        return images_looked_for()


def _is_file(files: Files, uri: str) -> bool:
    try:
        return bool(files.status(uri))
    except FileNotFoundError:
        return False


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def _shared(one: list[str], other: list[str]) -> int:
    """How many folders two paths have in common."""
    return next(
        (number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
