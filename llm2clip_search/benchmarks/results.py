"""What a retrieval run leaves: one JSON object a language, in CLIP_benchmark's shape with our keys beside.

``dataset``, ``model``, ``pretrained``, ``task``, ``language`` and ``metrics`` are CLIP_benchmark's, so that
``clip_benchmark build`` takes a file of one object as its own; everything else is ours.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llm2clip_search.base.files import replace_file
from llm2clip_search.errors import CorpusError

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """One language of one split of one data set, by one encoder."""

    dataset: str
    model: str
    pretrained: str
    """Of open_clip's names the tag; else empty."""
    task: str = "zeroshot_retrieval"
    language: str
    metrics: Mapping[str, float]
    """``image_retrieval_recall@k`` and ``text_retrieval_recall@k``, see `metrics.RetrievalRanks.recalls`."""
    split: str
    images: int
    captions: int
    captions_per_image: str
    """``all``, the number that was read at most, or ``joined N``."""
    fingerprint: str
    """Of the encoder."""
    data: str
    """Digest of images and captions: figures of two runs can be compared where it is equal."""
    measures: Mapping[str, float]
    """Further figures, see `metrics` and `judgments`."""
    intervals: Mapping[str, Sequence[float]]
    """95 % bootstrap intervals ``[low, high]`` of the recalls, by the keys of ``metrics``."""
    trained_on: str = ""
    """What the model's card says of having seen this data; empty where it says nothing."""
    notes: Sequence[str] = ()
    seconds: float
    """To embed this language's captions; near 0 where they were cached."""
    ranks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """``image_retrieval`` and ``text_retrieval``: see `metrics.RetrievalRanks`, -1 for never; and ``image_of``, the row
    of each caption's image."""
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "RetrievalResult":
        """Raises TypeError for a missing or unknown key, ValueError for a newer schema."""
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"schema version {raw.get('schema_version')}, but this version reads {SCHEMA_VERSION}")
        if unknown := raw.keys() - {f.name for f in fields(cls)}:
            raise TypeError(f"unknown keys {sorted(unknown)}")
        return cls(**raw)


def pretrained_of(model: str) -> str:
    """CLIP_benchmark's second name of a model: the tag behind an open_clip architecture, else empty."""
    return model.partition("/")[2] if model.startswith("open_clip:") else ""


def write_results(path: Path, results: Iterable[RetrievalResult]) -> None:
    """One object a line; of a single language the file is a CLIP_benchmark result as it stands."""
    text = "".join(f"{json.dumps(result.to_dict(), ensure_ascii=False)}\n" for result in results)
    replace_file(path, text.encode())


def read_results(path: Path) -> list[RetrievalResult]:
    """What `write_results` wrote.

    Raises:
        CorpusError: a file that is missing, empty or of another kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [RetrievalResult.from_dict(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CorpusError(f"{path} is no file that bench retrieval --out wrote: {error}.") from error
    if not found:
        raise CorpusError(f"{path} holds no result.")
    return found
