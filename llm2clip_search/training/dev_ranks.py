"""Ranks of the kept evaluation, ``ranks.json`` in a model folder: what intervals and paired tests are computed from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.evaluation.metrics import NEVER, RetrievalRanks
from llm2clip_search.training.tasks.clip_data import Dev

RANKS = "ranks.json"


@dataclass(frozen=True, kw_only=True)
class DevRanks:
    """Ranks on a dev split in one language."""

    data: str
    """Digest of its images and captions."""
    image_of: np.ndarray
    """int64 ``[n_captions]``, the index of each caption's image."""
    ranks: RetrievalRanks


def write_ranks(out: Path, dev: Sequence[Dev], ranks: Mapping[str, RetrievalRanks]) -> None:
    """Write ``out/ranks.json``, in place of that of an evaluation before.

    Args:
        ranks: by split and language, such as ``val/en``.
    """
    found = {}
    for split in dev:
        for lang, (_, image_of) in split.captions.items():
            own = ranks[f"{split.name}/{lang}"]
            content = [split.image_ids, split.texts[lang], image_of.tolist()]
            found[f"{split.name}/{lang}"] = {
                "data": json_sha256(content)[:16],
                "image_of": image_of.tolist(),
                "image_retrieval": _stored(own.image_retrieval),
                "text_retrieval": _stored(own.text_retrieval),
            }
    replace_file(out / RANKS, json.dumps(found).encode() + b"\n")


def read_ranks(out: Path) -> dict[str, DevRanks]:
    """What `write_ranks` wrote; empty if there is none, as in folders of earlier versions."""
    try:
        stored = json.loads((out / RANKS).read_text(encoding="utf-8"))
        return {name: _read(one) for name, one in stored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _read(stored: Mapping[str, list[int]]) -> DevRanks:
    ways = [np.array(stored[name], dtype=np.int64) for name in ("image_retrieval", "text_retrieval")]
    image, text = (np.where(way < 0, NEVER, way) for way in ways)
    return DevRanks(
        data=str(stored["data"]),
        image_of=np.array(stored["image_of"], dtype=np.int64),
        ranks=RetrievalRanks(image_retrieval=image, text_retrieval=text),
    )


def _stored(ranks: np.ndarray) -> list[int]:
    """JSON has no notation for an item that is never found; -1 stands for it, as in results of benchmarks."""
    stored: list[int] = np.where(ranks == NEVER, -1, ranks).tolist()
    return stored
