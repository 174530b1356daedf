"""Typed results; the command line only formats them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isnan
from pathlib import Path
from typing import Any

from llm2clip_search.base.visible import visible
from llm2clip_search.corpora.containers import container_uri, open_uri
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.engine.plan import SearchPlan
from llm2clip_search.engine.query import Find
from llm2clip_search.errors import QueryError
from llm2clip_search.store.names import json_path
from llm2clip_search.store.snapshot import is_uri

NOT_METADATA = ("id", "path", "corpus", "version", "described")
"""Columns that a hit has as fields of its own, and columns that say how a row is kept up to date, not what is in the
image."""


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A near-duplicate that is grouped under a hit."""

    id: int
    uri: str
    """As of `Hit`."""
    index: str | None = None
    """As of `Hit`."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; ``index`` is there only if several indices were searched, ``path_bytes`` as of `Hit`."""
        shown = json_path(self.uri)
        row = {"id": self.id, "path": shown.pop("path")}
        return row | ({"index": self.index} if self.index is not None else {}) | shown


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One image or text of a result."""

    rank: int
    """From 1, over the whole ranking, so that pages continue."""
    id: int
    uri: str
    """Absolute path of its file, or ``scheme://...`` for an item that is not a file of this machine; that of a part of
    a file ends in ``#`` and which part it is. Bytes that are not UTF-8 are there as Python has them in names:
    `os.fsencode` gives them back."""
    metadata: dict[str, Any] = field(repr=False)
    """The other columns of its row."""
    version: str = field(default="", repr=False)
    """The source's mark of what was indexed."""
    options: SourceOptions = field(default=SourceOptions(), repr=False)
    """How its source is read, for instance whether addresses may be private."""
    index: str | None = None
    """Folder of its index if several were searched; None for one."""
    duplicates: tuple[Duplicate, ...] | None = None
    """Near-duplicates that are grouped under it, best first; None if the query does not group them."""

    @property
    def modality(self) -> str:
        """``image`` or ``text``."""
        return self.metadata.get("modality") or "image"

    @property
    def text(self) -> str | None:
        """The passage, if it is a text."""
        return self.metadata.get("text")

    @property
    def file(self) -> str:
        """Path or URI of its file; of the container, such as an archive, if it is a part of one."""
        return container_uri(self.uri)[0]

    @property
    def part(self) -> str | None:
        """Which part of its file it is, such as ``page=3``, ``t=12.5``, ``row=17`` or ``char=0,812``; else None."""
        return container_uri(self.uri)[1] or None

    @property
    def path(self) -> Path:
        """Absolute path of its file.

        Raises:
            ValueError: it is not a file of this machine.
        """
        if is_uri(self.uri):
            raise ValueError(f"{self.uri} is not a file of this machine")
        return Path(self.file)

    @property
    def exists(self) -> bool | None:
        """True if its file is there now, None if it is not a file of this machine. Looks at the disk."""
        return None if is_uri(self.uri) else Path(self.file).exists()

    def open(self) -> bytes:
        """The content that was indexed: that of an image file, or of a part of a file; a text as UTF-8.

        Raises:
            OSError: it cannot be read, or is not there any more.
            CorpusError: its file is damaged, or what reads it is not installed.
        """
        return open_uri(self.uri, self.version, options=self.options)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; times are ISO 8601, missing values null.

        ``probability`` is there if it is known.
        ``index`` and ``duplicates`` are its last keys, and there only if the query asks for them; after them
        ``path_bytes`` if the path is not UTF-8 (see `names.json_path`).
        """
        shown = json_path(self.uri)
        rest = {key: v.isoformat() if isinstance(v, datetime) else v for key, v in self.metadata.items()}
        scores = self._scores()  # a column of a source may be called as one of them
        row = {"rank": self.rank, "id": self.id, **scores, "path": shown.pop("path"), **rest, **scores}
        row |= {"modality": self.modality, "part": self.part, "exists": self.exists}
        if self.index is not None:
            row["index"] = self.index
        if self.duplicates is not None:
            row["duplicates"] = [duplicate.to_dict() for duplicate in self.duplicates]
        return row | shown

    def _scores(self) -> dict[str, float]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Hit(Listed):
    """One image or text found."""

    score: float
    """Cosine."""
    probability: float | None = None
    """That it is what the caption describes, as the model is calibrated (`encoders.calibration`); None for another
    model, and for queries that are not a caption for images. It assumes that half of the captions have an image."""

    def _scores(self) -> dict[str, float]:
        return {"score": self.score} | ({} if self.probability is None else {"probability": self.probability})


@dataclass(frozen=True, kw_only=True)
class Result:
    """Hits, best first, and how they were found."""

    hits: list[Hit]
    plans: tuple[SearchPlan, ...]
    """One per index, in their order."""
    find: Find = "images"
    """What the hits are."""
    warnings: list[str] = field(default_factory=list)
    """Whole sentences, for instance that a caption was cut."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage: plan (with the filter), encode, search, join; of a query in a batch, its share."""

    @property
    def plan(self) -> SearchPlan:
        """The plan of the index that was searched, of the first one if there are several."""
        return self.plans[0]

    def __repr__(self) -> str:
        """Rank, score and path of each hit, a line each."""
        lines = [f"{hit.rank:>4}  {hit.score:6.3f}  {visible(hit.uri)}" for hit in self.hits]
        warnings = map(visible, self.warnings)
        return "\n".join([f"Result with {len(lines)} hit{'s' * (len(lines) != 1)}", *lines, *warnings])

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        from html import escape

        rows = "".join(
            f"<tr><td>{hit.rank}</td><td>{hit.score:.3f}</td><td>{escape(visible(hit.uri))}</td></tr>"
            for hit in self.hits
        )
        notes = "".join(f"<p>{escape(visible(warning))}</p>" for warning in self.warnings)
        return f"<table><tr><th>rank</th><th>score</th><th>path</th></tr>{rows}</table>{notes}"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A page of the rows that meet a condition."""

    hits: list[Listed]
    """In the order asked for."""
    matches: int
    """Rows of all pages."""
    find: Find
    """What the rows are."""
    seconds: dict[str, float]
    """By stage: plan (the condition), search (the order), join."""


_ALIASES = {"mtime": "mtime_ns"}
"""Names of columns in conditions that results call otherwise."""


def sortable(columns: Sequence[str]) -> tuple[str, ...]:
    """What hits with these columns of metadata can be ordered by."""
    return ("score", "id", "path", *_ALIASES, *columns)


def in_order_of(hits: list[Hit], sort: str | None) -> list[Hit]:
    """Hits by the value of a column, ascending, or descending for ``-COLUMN``; as they are without one.

    Hits without a value come last in either order, and equal values by rank.

    Raises:
        QueryError: values that have no order, such as objects.
    """
    if sort is None:
        return hits
    name = sort.removeprefix("-")
    values = {hit.rank: _value(hit, _ALIASES.get(name, name)) for hit in hits}
    known = [hit for hit in hits if values[hit.rank] is not None]
    missing = [hit for hit in hits if values[hit.rank] is None]
    try:
        return [*sorted(known, key=lambda hit: values[hit.rank], reverse=sort.startswith("-")), *missing]
    except TypeError as error:
        kind = type(values[known[0].rank]).__name__
        raise QueryError(f"The results cannot be ordered by {name!r}: its values ({kind}) have no order.") from error


def _value(hit: Hit, name: str) -> Any:
    own = {"score": hit.score, "id": hit.id, "path": hit.uri}
    own |= {} if hit.probability is None else {"probability": hit.probability}
    value = own[name] if name in own else hit.metadata.get(name)
    return None if isinstance(value, float) and isnan(value) else value  # no number comes before or after NaN
