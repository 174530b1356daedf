"""The seam behind which archives, tables, documents and videos look alike: files that hold many items."""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from llm2clip_search.corpora.corpus import Item, Modality
from llm2clip_search.corpora.files import Files
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa


class Container(Protocol):
    """Reads one kind of file. A reader has no state that grows; one object reads many files from many threads. Subclass
    it to inherit what is given here."""

    kind: str
    """As ``--as`` names it: tar, table, pdf, video, text."""
    suffixes: frozenset[str]
    """Lower-case ends of the names of such files, with the dot."""
    modalities: frozenset[Modality]
    """What its parts can be indexed as."""
    has_columns: bool = False
    """Its parts may have columns that somebody has given them."""
    extra: str
    """The extra that installs what it needs; empty if nothing is missing."""

    def check_extra(self, uri: str) -> None:
        """Raise a `CorpusError` about a file if the extra that reads it is not installed."""
        if self.extra:
            raise CorpusError(
                f"{uri} cannot be read without the extra [{self.extra}].",
                hint=f"Install it with: pip install 'llm2clip-search[{self.extra}]'.",
            )

    def parts(self, files: Files, container: Item, options: SourceOptions) -> Iterator[Item]:
        """As `Corpus.parts`. Items whose bytes listing reads anyway carry them as ``data``."""

    def open(self, files: Files, item: Item, options: SourceOptions = SourceOptions()) -> bytes:
        """The bytes of one part, by its URI and version: also long after it was listed.

        Args:
            options: as of `parts`; only what they say of addresses counts.

        Raises:
            OSError: it cannot be read, or is not there any more.
        """

    def text(self, files: Files, item: Item, options: SourceOptions = SourceOptions()) -> str:
        """The text that the passages of a part are characters of; errors as `open`."""
        return self.open(files, item, options).decode()

    def schema(self, files: Files, container: Item, options: SourceOptions) -> "pa.Schema | None":
        """As `Corpus.schema`."""
        return None

    def split(self, uri: str) -> tuple[str, str]:
        """The container's URI and which part it is, of a part; neither a folder's name nor a member's matters.

        >>> split("a#b/scan.pdf#page=3")
        ('a#b/scan.pdf', 'page=3')
        """
        end = container_end(uri, lambda name: name.casefold().endswith(tuple(self.suffixes)))
        if end == len(uri):  # a container whose name does not tell what it is
            end = uri.index("#")
        return uri[:end], uri[end + 1 :]


def container_end(uri: str, is_container: Callable[[str], bool]) -> int:
    """Where the name of a part's container ends in its URI; the length of the URI if it is no part.

    On this machine a ``#`` may also belong to the name of a file or folder: ``scan.pdf#1.jpg`` beside ``scan.pdf``, or
    ``talk.mp4#frames/1.jpg``. So the longest beginning that is a file counts, and the disk is asked only where the
    names leave a choice.

    Args:
        is_container: tells by its name whether a file has parts.
    """
    ends = [end for end, letter in enumerate(uri) if letter == "#" and is_container(uri[:end])]
    if not ends:
        return len(uri)
    if "://" not in uri:
        for end in (len(uri), *reversed(ends[1:])):
            if os.path.isfile(uri[:end]):  # noqa: PTH113 - for each part that is read
                return end
    return ends[0]
