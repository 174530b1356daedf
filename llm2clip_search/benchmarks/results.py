"""Results of a retrieval run: one JSON object per language, in CLIP_benchmark's format with additional keys.

``dataset``, ``model``, ``pretrained``, ``task``, ``language`` and ``metrics`` are CLIP_benchmark's keys, so
``clip_benchmark build`` accepts a file with one object. All other keys are additions of this project.
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
    """The result of one encoder on one data set, split and language."""

    dataset: str
    model: str
    pretrained: str
    """Tag of an open_clip model; empty for other models."""
    task: str = "zeroshot_retrieval"
    language: str
    metrics: Mapping[str, float]
    """``image_retrieval_recall@k`` and ``text_retrieval_recall@k``, see `metrics.RetrievalRanks.recalls`."""
    split: str
    images: int
    captions: int
    captions_per_image: str
    """``all``, the maximum number of captions read per image, or ``joined N``."""
    fingerprint: str
    """Fingerprint of the encoder."""
    data: str
    """Digest of images and captions; two runs are comparable if it is equal."""
    measures: Mapping[str, float]
    """Further measures, see modules `measures` and `judgments`."""
    intervals: Mapping[str, Sequence[float]]
    """95 % bootstrap intervals ``[low, high]`` of the recalls, by the keys of ``metrics``."""
    trained_on: str = ""
    """What the model's card says about having seen this data in training; empty if nothing."""
    notes: Sequence[str] = ()
    seconds: float
    """Time to embed the captions; near 0 if they were cached."""
    ranks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """``image_retrieval`` and ``text_retrieval`` as in `metrics.RetrievalRanks`, with -1 for `metrics.NEVER`;
    ``image_of``, the row of each caption's image; ``caption_tokens``, the number of tokens of each caption."""
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "RetrievalResult":
        """Read what `to_dict` returned.

        Raises:
            TypeError: a key is missing or unknown.
            ValueError: the schema version is another one.
        """
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"schema version {raw.get('schema_version')}, but this version reads {SCHEMA_VERSION}")
        if unknown := raw.keys() - {f.name for f in fields(cls)}:
            raise TypeError(f"unknown keys {sorted(unknown)}")
        return cls(**raw)


def pretrained_of(model: str) -> str:
    """CLIP_benchmark's second name of a model: the tag of an open_clip model, otherwise empty."""
    return model.partition("/")[2] if model.startswith("open_clip:") else ""


def write_results(path: Path, results: Iterable[RetrievalResult]) -> None:
    """Write one JSON object per line; a file with a single language is a valid CLIP_benchmark result."""
    text = "".join(f"{json.dumps(result.to_dict(), ensure_ascii=False)}\n" for result in results)
    replace_file(path, text.encode())


def read_results(path: Path) -> list[RetrievalResult]:
    """Read what `write_results` wrote.

    Raises:
        CorpusError: the file is missing, empty or of another kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [RetrievalResult.from_dict(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CorpusError(
            f"{path} is not a file of retrieval results: {error}.", hint="bench retrieval --out writes such files."
        ) from error
    if not found:
        raise CorpusError(f"{path} contains no results.", hint="bench retrieval --out writes such files.")
    return found
