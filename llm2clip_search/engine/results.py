"""What comes back, typed; the command line only formats it."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from llm2clip_search.engine.plan import SearchPlan


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One image found."""

    rank: int
    """From 1, counted over the whole ranking, so that pages continue."""
    id: int
    score: float
    """Cosine."""
    path: Path
    """Absolute."""
    metadata: dict[str, Any]
    """The other columns of its row."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; times are ISO 8601, missing values null."""
        rest = {key: v.isoformat() if isinstance(v, datetime) else v for key, v in self.metadata.items()}
        return {"rank": self.rank, "id": self.id, "score": self.score, "path": str(self.path), **rest}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Hits, best first, and how they were found."""

    hits: list[Hit]
    plan: SearchPlan
    warnings: list[str] = field(default_factory=list)
    """Whole sentences, such as that a caption was cut."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage: plan (with the filter), encode, search, join."""
