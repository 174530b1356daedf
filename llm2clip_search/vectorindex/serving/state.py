"""The record that a collection holds of what was published to it: enough to go on, and to search without the index."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.errors import EngineError

FORMAT = 2
"""Version of the record and of the layout of rows; a newer one is refused."""


@dataclass(frozen=True, kw_only=True)
class ServingPoint:
    """How well the engine answered queries at one effort, with a filter or without."""

    share: float
    """Of the rows that the filter left; 1 without one."""
    effort: int | None
    """``ef`` of the engine's graph; None where the engine compares all rows that the filter leaves."""
    recall: float
    """Recall@10 against exact search."""
    milliseconds: float
    """Median time of one query, its way to the engine included."""
    p95_ms: float
    """Time that 95 % of the queries took at most."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the last publish measured."""

    queries: str
    """``captions`` that the model brought along, or ``midpoints`` of stored vectors."""
    exact_ms: float
    """Milliseconds of one exact query over all rows of the index on the machine that published."""
    points: tuple[ServingPoint, ...]
    """By share, descending, and effort, ascending, the comparison of all rows last."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a collection holds, and of which index."""

    index: str
    """Identity of the index, which a copy of it shares."""
    folder: str
    """Where the index lay when it was published, for people."""
    model: ModelIdentity
    dim: int
    dtype: str
    """Of the vectors: float16 or float32."""
    base: str
    """Folder that relative paths of the index started from; paths in the engine are whole."""
    generation: int
    """Commit of the index that was published last, or whose publishing is under way."""
    next_id: int
    """Every row of that commit has a lower id, and every later one has not."""
    rows: int
    """Live rows of that commit."""
    sources: tuple[dict[str, Any], ...]
    """As the manifest has them."""
    columns: tuple[dict[str, str], ...]
    """Columns that corpora brought along, as the manifest has them."""
    shards: dict[str, str] = field(default_factory=dict, hash=False)
    """Shards whose rows are all there, each with the checksum of its metadata."""
    is_complete: bool = False
    """False while a publish is under way, or after one that was interrupted."""
    published: str = ""
    """When the last publish ended, ISO 8601 in UTC; empty before the first one."""
    measured: Measured | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, raw: object, name: str) -> "Published":
        """Read a record.

        Args:
            name: of the collection, for messages.

        Raises:
            EngineError: it is not a record, or a later version wrote it.
        """
        if not isinstance(raw, Mapping) or not isinstance(raw.get("format"), int):
            raise EngineError(f"The record of {name} is not that of a published index.")
        if raw["format"] > FORMAT:
            raise EngineError(
                f"{name} was published in format {raw['format']}, newer than {FORMAT}, which this version reads.",
                hint="Upgrade with pip install -U llm2clip-search.",
            )
        try:
            values = {key: value for key, value in raw.items() if key != "format"}
            measured = values.pop("measured")
            return cls(
                **{
                    **values,
                    "model": ModelIdentity(**values["model"]),
                    "sources": tuple(values["sources"]),
                    "columns": tuple(values["columns"]),
                    "measured": None if measured is None else _measured(measured),
                }
            )
        except (TypeError, KeyError, ValueError) as error:
            raise EngineError(f"The record of {name} lacks or misnames an entry: {error}.") from error


def _measured(raw: Mapping[str, Any]) -> Measured:
    return Measured(**{**raw, "points": tuple(ServingPoint(**point) for point in raw["points"])})
