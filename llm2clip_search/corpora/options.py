"""How a source is read."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from llm2clip_search.corpora.corpus import Modality

Kind = Literal["folder", "files", "tar", "table", "list", "pdf", "video", "text"]
"""What a source is: a folder that is walked, files that are named, webdataset shards, tables with images or texts in
them, tables and lists that name images, documents, videos, text files."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source is read; an index remembers what differs from this."""

    kind: Kind | None = None
    """None: told from what it is."""
    modality: Modality = "image"
    exclude: tuple[str, ...] = ()
    """Gitignore patterns of what is left out of a folder."""
    everything: bool = False
    """Read hidden files and system folders of a folder too."""
    image: str | None = None
    """Column of a table that holds images, or their paths or URLs; None: told from its name and type."""
    text: str | None = None
    """Column of a table that holds texts, with ``modality="text"``; None: told from its name."""
    columns: tuple[str, ...] | None = None
    """Columns of a table, or keys of a sample, that become columns of the index; None: all."""
    metadata: str | None = None
    """A table whose columns are joined to the items; empty: there is none any more, and what one has given goes."""
    on: str = ""
    """Its column that names the items: by path, file name or stem."""
    every: float | None = None
    """Seconds between two frames of a video that are indexed; 0: one per scene; None: as the reader decides."""
    separate_raw: bool = False
    """A RAW file beside a JPEG of the same name is an image by itself."""
    null_separated: bool = False
    """A list on stdin has a zero byte, not the end of a line, behind each path or URL."""
    allow_private: bool = False
    """URLs may lead to addresses of this machine and of private networks."""

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON, without what `Corpus` has fields for."""
        own = ("exclude", "everything", "modality")
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in own}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != type(self).__dataclass_fields__[name].default
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SourceOptions":
        """The inverse of `to_dict`; keys that this version does not know are left out."""
        known = {each.name for each in fields(cls)}
        kept: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in known
        }
        return cls(**kept)
