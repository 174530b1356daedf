"""Typed results; the command line only formats them."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from llm2clip_search.engine.plan import SearchPlan
from llm2clip_search.store.snapshot import is_uri


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One image found."""

    rank: int
    """From 1, over the whole ranking, so that pages continue."""
    id: int
    score: float
    """Cosine."""
    uri: str
    """Absolute path of its file, or ``scheme://...`` for an item that is not a file of this machine."""
    metadata: dict[str, Any]
    """The other columns of its row."""

    @property
    def path(self) -> Path:
        """Absolute path of its file.

        Raises:
            ValueError: the image is not a file of this machine.
        """
        if is_uri(self.uri):
            raise ValueError(f"{self.uri} is not a file of this machine")
        return Path(self.uri)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; times are ISO 8601, missing values null."""
        rest = {key: v.isoformat() if isinstance(v, datetime) else v for key, v in self.metadata.items()}
        return {"rank": self.rank, "id": self.id, "score": self.score, "path": self.uri, **rest}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Hits, best first, and how they were found."""

    hits: list[Hit]
    plan: SearchPlan
    warnings: list[str] = field(default_factory=list)
    """Whole sentences, for instance that a caption was cut."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage: plan (with the filter), encode, search, join."""
