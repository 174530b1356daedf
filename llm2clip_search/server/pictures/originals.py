"""What a row was made of: its content, the file that holds it, and whether that is still there."""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from llm2clip_search.errors import CorpusError
from llm2clip_search.server.hits import as_text, row_of
from llm2clip_search.server.opened import Opened
from llm2clip_search.server.pictures.guarded_files import GuardedFiles, check_size
from llm2clip_search.server.problems import Problem

if TYPE_CHECKING:
    from llm2clip_search.corpora.files import Files
    from llm2clip_search.corpora.options import SourceOptions
    from llm2clip_search.store import Snapshot, SourceEntry

_WHOLE = ("pdf", "video", "text")
"""Kinds of containers whose parts are drawn or cut from them: the original of a page is its document."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """An original, open."""

    file: BinaryIO
    size: int
    """Bytes."""
    name: str
    """As its file is called; bytes that are not UTF-8 are U+FFFD."""
    tag: str
    """Changes with the content; empty if nothing tells."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """Where the content of a row lies."""

    snapshot: "Snapshot" = field(repr=False)
    row: dict[str, Any] = field(repr=False)
    """Its columns, as `Snapshot.rows` gives them."""

    @cached_property
    def uri(self) -> str:
        """As of `engine.Hit`."""
        return self.snapshot.located(self.row["path"])

    @cached_property
    def file(self) -> str:
        """Path or URI of the file; of the container, if the row is a part of one."""
        return self._split[0]

    @property
    def is_remote(self) -> bool:
        return "://" in self.file

    @property
    def content_hash(self) -> str:
        return str(self.row["content_hash"])

    @property
    def is_text(self) -> bool:
        return self.row.get("modality") == "text"

    @property
    def exists(self) -> bool | None:
        """True if the file is there and may be served; None if it is not on this machine."""
        if self.is_remote:
            return None
        try:
            self._files.status(self.file)
        except OSError:
            return False
        return True

    @property
    def source(self) -> str:
        """Path or URI of the source that the row came from."""
        return self.snapshot.located(self._source.uri)

    @property
    def source_exists(self) -> bool:
        """False if the folder of the source is missing or empty, as if a drive is not mounted."""
        from llm2clip_search.indexers.sources import source_state

        return source_state(self.snapshot, self._source) not in ("missing", "empty")

    def content(self) -> bytes:
        """What was indexed: the bytes of a file, or of a part of one.

        Raises:
            Problem: ``gone`` if it cannot be read, ``unsupported-media`` if what reads it is not installed.
            ImageError: its file is damaged.
        """
        from llm2clip_search.corpora.containers import open_item
        from llm2clip_search.corpora.corpus import Item

        with self._readable():
            if self.is_remote and not self.part and not self.file.startswith("http"):  # which has a limit of its own
                check_size(self._files.status(self.file).size, self.file)
            data = open_item(Item(uri=self.uri, version=self._version), self._files, options=self._options)
            # A cell of a table can name any file, and the table may have been replaced.
            if self._kind == "table" and content_hash(data) != self.content_hash:
                raise FileNotFoundError(f"{self.file} has something else in its place")
        return data

    def is_as_indexed(self, data: bytes) -> bool:
        """True if `content` gave what was indexed. Pages and frames count as such if their file is the same, because
        another version of a decoder gives other bytes."""
        if content_hash(data) == self.content_hash:
            return True
        if self._kind not in _WHOLE:
            return False
        with self._readable():
            version = self._files.status(self.file).version
        return bool(version) and self._version.rpartition("@")[2] == version

    def download(self) -> Download:
        """The file, or what an archive or a table holds as a file; errors as of `content`."""
        from llm2clip_search.corpora.files import file_status

        if self.part and self.whole != self.file:
            data = self.content()
            name = PurePath(self.part).name if self._kind == "tar" else f"{PurePath(self.file).name}#{self.part}"
            return Download(file=io.BytesIO(data), size=len(data), name=as_text(name), tag=content_hash(data)[:16])
        with self._readable():
            opened = self._files.open(self.file)
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            is_here = not self.is_remote
            status = file_status("", os.fstat(opened.fileno())) if is_here else self._files.status(self.file)
        tag = hashlib.blake2b(f"{size}:{status.version}".encode(), digest_size=8).hexdigest() if status.version else ""
        return Download(file=opened, size=size, name=as_text(PurePath(self.file).name), tag=tag)

    @property
    def whole(self) -> str:
        """Names what `download` gives: all pages of a document have the same."""
        return self.file if self._kind in _WHOLE else self.uri

    @property
    def part(self) -> str:
        """Which part of its file it is; empty if it is the file."""
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[str, str]:
        from llm2clip_search.corpora.containers import container_uri

        return container_uri(self.uri)

    @cached_property
    def _kind(self) -> str:
        """Kind of the container; empty for a file."""
        from llm2clip_search.corpora.containers import container_for

        reader = container_for(self.file) if self.part else None
        return "" if reader is None else reader.kind

    @property
    def _version(self) -> str:
        return self.row.get("version") or ""

    @cached_property
    def _source(self) -> "SourceEntry":
        """The source that brought the row along, else the innermost one that it lies in, else its folder."""
        from llm2clip_search.store import SourceEntry

        corpus, sources = self.row.get("corpus"), self.snapshot.manifest.sources
        around = [each for each in sources if self.snapshot.is_under(self.row["path"], each.uri)]
        own = [each for each in sources if each.uri == corpus] or sorted(around, key=lambda each: -len(each.uri))
        folder = corpus or self.snapshot.stored(str(PurePath(self.file).parent))
        return own[0] if own else SourceEntry(uri=folder)

    @cached_property
    def _options(self) -> "SourceOptions":
        """How the source is read."""
        from llm2clip_search.corpora.options import SourceOptions

        return SourceOptions.from_dict(self._source.options)

    @cached_property
    def _files(self) -> "Files":
        from llm2clip_search.corpora.files import files_of

        if self.is_remote:
            return files_of(self.file, self._options)
        above = PurePath(self.source), PurePath(self.source).parent  # a source can be a file, or name files beside it
        root = next((each for each in above if each in PurePath(self.file).parents), PurePath("/"))
        return GuardedFiles(
            str(root), version=self._version, size=self.row.get("size") or 0, content_hash=self.content_hash
        )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Problem("gone", self._why(error)) from error
        except CorpusError as error:
            raise Problem("unsupported-media", str(error), hint=error.hint) from error

    def _why(self, error: OSError) -> str:
        if not self.is_remote and not self.source_exists:
            source = as_text(self.source)
            return f"{source} is missing or empty; the drive that it is on may not be connected."
        reason = (error.strerror or str(error) or type(error).__name__).rstrip(".").lower()
        return f"{as_text(self.file)} cannot be read: {as_text(reason)}."


def original_of(identifier: str, opened: Opened) -> Original:
    """The original of an id of the API.

    Raises:
        Problem: ``not-found``.
    """
    part, number = row_of(identifier, opened)
    snapshot = opened.searcher.parts[part].indexed
    return Original(snapshot=snapshot, row=snapshot.rows([number])[0])


def content_hash(data: bytes) -> str:
    """As an index has it: BLAKE2b-128, hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
