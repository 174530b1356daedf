"""The seam behind which archives, tables, documents and videos look alike: files that hold many items."""

from collections.abc import Iterator
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
        ends = [end for end, letter in enumerate(uri) if letter == "#"]
        end = next((end for end in ends if uri[:end].casefold().endswith(tuple(self.suffixes))), ends[0])
        return uri[:end], uri[end + 1 :]
