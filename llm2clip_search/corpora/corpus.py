"""What a corpus is: the seam behind which folders, archives, tables and buckets look alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llm2clip_search.corpora.skipped import Skipped


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing to index, known without reading it."""

    uri: str
    """Where it is: a path of this machine, or ``scheme://...``. Unique within the index."""
    version: str = ""
    """Equal for as long as the content is the same, as far as the source can tell without reading it; empty if it
    cannot tell, and then the item is read and compared by content hash."""
    former_version: str = ""
    """What an earlier release would have written as the version of the same content; as good as `version`."""
    size: int = 0
    """Bytes; 0 if unknown."""
    mtime_ns: int = 0
    """Time of the last change, nanoseconds since 1970; 0 if unknown."""


class ItemReader(Protocol):
    """Gives the bytes of items."""

    def open(self, uri: str) -> bytes:
        """The bytes of one item; may be called from several threads at once.

        Raises:
            OSError: it cannot be read, or is not there any more.
        """


class Corpus(ItemReader, Protocol):
    """A source of items. Subclass it to inherit what is given here; only `uri`, `items` and `open` are needed."""

    @property
    def uri(self) -> str:
        """Names the corpus in an index; the URI of each item starts with it and ``/``, or equals it."""

    exclude: Sequence[str] = ()
    """Patterns of what is left out; the index remembers them."""
    everything: bool = False
    """True if hidden and system files are read too; the index remembers it."""

    part_of: str = ""
    """URI of the source whose part this is; empty if it is a source by itself, which the index remembers."""

    def items(self) -> Iterator[Item]:
        """All items, in the same order each time.

        Raises:
            CorpusError: the source is missing or cannot be read.
        """

    def unreadable(self) -> dict[str, str]:
        """Parts of the source that the last `items` could not look into, by URI, each with the reason.

        Rows of items below them are kept: nothing is known about what became of them.
        """
        return {}

    def vacant(self) -> list[str]:
        """Parts that are there and hold nothing at all, such as the mount point of a disk that is not mounted, by URI.

        Rows of items below them are kept unless the caller says otherwise.
        """
        return []

    def mounts(self) -> list[str]:
        """Parts that lie on another disk than what is around them, by URI; the index remembers them.

        If one is missing later, it counts as vacant: some systems remove a mount point with its disk.
        """
        return []

    def skipped(self) -> Skipped:
        """What the last `items` left out."""
        return Skipped()

    def looked_for(self) -> str:
        """What counts as an item, as the message about an empty corpus says it."""
        return "images"
