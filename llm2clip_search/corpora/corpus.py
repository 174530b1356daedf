"""What a corpus is: the seam behind which folders, archives, tables and buckets look alike."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from llm2clip_search.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

    from llm2clip_search.corpora.skipped import Skipped


Modality = Literal["image", "text"]
"""What the items of a corpus are embedded as: images by the vision tower, texts by the LLM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing to index, known without reading it; or a container, whose parts are such things."""

    uri: str
    """Where it is: a path of this machine, or ``scheme://...``. Unique within the index. That of a part is the URI of
    its container, ``#``, and which part it is: ``shard.tar#000012.jpg``, ``scan.pdf#page=3``, ``clip.mp4#t=12.5``."""
    address: str = field(default="", repr=False)
    """Where it is with the secrets that `uri` leaves out, such as a signature; empty if there are none. Not stored."""
    version: str = ""
    """Equal for as long as the content is the same, as far as the source can tell without reading it; empty if it
    cannot tell, and then the item is read and compared by content hash."""
    former_version: str = ""
    """What an earlier release would have written as the version of the same content; as good as `version`."""
    size: int = 0
    """Bytes; 0 if unknown."""
    mtime_ns: int = 0
    """Time of the last change, nanoseconds since 1970; 0 if unknown."""
    is_container: bool = False
    """True for an archive, a table, a document or a video: `Corpus.parts` lists what is indexed. A container whose
    version is known and whose rows are all there is not opened."""
    data: bytes | None = field(default=None, repr=False)
    """Its content, if listing it has read it anyway; None if `Corpus.open` reads it."""
    fault: str = ""
    """Why it cannot be indexed, if listing it has shown that, such as a row of a table without an image: it is a
    failure that is not opened. Empty otherwise."""
    columns: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the source knows of it, such as a caption or a licence: values that Arrow can store, by column. One that has
    the name of a descriptive column of the index (caption, rating, keywords, taken, ...) takes its place."""
    described: str = ""
    """Mark of `columns`, equal for as long as they are. If it alone has changed, the row gets the new columns, and the
    item is neither read nor embedded."""


class ItemReader(Protocol):
    """Gives the bytes of items."""

    def open(self, item: Item) -> bytes:
        """The bytes of one item; may be called from several threads at once.

        Raises:
            OSError: it cannot be read, or is not there any more.
            ImageError: it can be read, but holds nothing that can be indexed, such as an HTML page for an image.
        """


class Corpus(ItemReader, Protocol):
    """A source of items. Subclass it to inherit what is given here; only `uri`, `items` and `open` are needed."""

    @property
    def uri(self) -> str:
        """Names the corpus in an index, which stores it with each row."""

    modality: Modality = "image"
    """What the items are."""
    is_partial: bool = False
    """True if `items` lists only some of what the corpus holds, such as the files that a caller names. Rows of items
    that are not listed are then kept, unless the file that they come from is gone."""
    exclude: Sequence[str] = ()
    """Patterns of what is left out; the index remembers them."""
    everything: bool = False
    """True if hidden and system files are read too; the index remembers it."""
    sees_sidecars: bool = False
    """True if an item without `described` has no sidecar, so that its row loses what an earlier one said."""
    options: Mapping[str, Any] = MappingProxyType({})
    """How else it is read (see `SourceOptions`), as JSON; the index remembers it."""

    part_of: str = ""
    """URI of the source whose part this is; empty if it is a source by itself, which the index remembers."""

    def items(self) -> Iterator[Item]:
        """All items and containers, in the same order each time.

        Raises:
            CorpusError: the source is missing or cannot be read.
        """

    def parts(self, container: Item) -> Iterator[Item]:
        """The items of a container, in the same order each time.

        What was listed before an error is indexed; the container is a failure.

        Raises:
            OSError: it cannot be read.
            CorpusError: it is damaged, locked, or not what its name says.
        """
        raise CorpusError(f"{container.uri} has no parts.")

    def own_columns(self, item: Item) -> Mapping[str, Any] | None:
        """What an item says of itself, by column: caption, rating, keywords, time, camera and place; None if that
        is not known. Asked for if what has described it has changed or is gone."""
        return None

    def lists(self, container: str) -> bool:
        """True if `items` would list a container of this URI if it were there: the corpus reads its kind."""
        return True

    def schema(self, container: Item | None = None) -> "pa.Schema | None":
        """Arrow types of the columns that items carry, or that the parts of a container carry; None if they follow
        from the values. A column keeps its type for all commits of a run, though the first values be null.

        Raises:
            OSError, CorpusError: as of `items` and `parts`.
        """
        return None

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

    def skipped(self) -> "Skipped":
        """What the last `items` left out."""
        from llm2clip_search.corpora.skipped import Skipped

        return Skipped()

    def looked_for(self) -> str:
        """What counts as an item, as the message about an empty corpus says it."""
        return "images"
