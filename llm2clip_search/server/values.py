"""Values that several routes take or give."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

HASH_DIGITS = 16
"""Digits of a content hash that stand in the URLs of pictures."""

ID_PATTERN = r"^\d{1,15}(@\d{1,3})?$"
Id = Annotated[str, Meta(pattern=ID_PATTERN, description="Id of a row; ID@N in the N-th index.")]
Share = Annotated[float, Meta(gt=0, le=1)]
Cosine = Annotated[float, Meta(ge=-1, le=1)]


class Same(Struct, kw_only=True, frozen=True):
    """A near-duplicate that is grouped under a hit."""

    id: str
    name: str


class Found(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One image or text. Fields that are not known are left out."""

    id: str
    modality: Literal["image", "text"]
    name: str
    """Name of its file."""
    path: str
    """Whole path or URI of its file."""
    hash: str
    """First digits of the content's hash, which change with the content."""
    rank: int | None = None
    """From 1, over the whole ranking."""
    score: float | None = None
    """Cosine with the query."""
    probability: float | None = None
    """That it is what the caption describes, if the model is calibrated and a caption alone is searched for."""
    part: str | None = None
    """Which part of its file it is, such as ``page=3``."""
    width: int | None = None
    height: int | None = None
    format: str | None = None
    size: int | None = None
    """Bytes."""
    mtime: datetime | None = None
    taken: datetime | None = None
    """The camera's local time."""
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    caption: str | None = None
    rating: int | None = None
    keywords: list[str] | None = None
    text: str | None = None
    """The passage, if it is a text."""
    damage: str | None = None
    """What is wrong with the file."""
    columns: dict[str, Any] = {}
    """Columns that the source brought along."""
    duplicates: list[Same] | None = None
