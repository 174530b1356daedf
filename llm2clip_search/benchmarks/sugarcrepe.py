"""SugarCrepe: does an image prefer its caption to one that differs by an attribute, an object, a relation or a swap?

Hsieh et al., SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality (NeurIPS 2023, arXiv
2306.14610). Accuracy is the share of pairs in which the caption scores higher than its hard negative, as in the
authors' ``main_eval.py``; a tie is a miss, and 50 % is chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.benchmarks.datasets.folders import first_existing, read_json
from llm2clip_search.benchmarks.embedding import embed_captions, embed_images
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import CorpusError

CATEGORIES = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
_KEYS = ("filename", "caption", "negative_caption")
_FETCH = (
    "ROOT, which --root names, contains add_att.json and the other files of the folder data of"
    " github.com/RAIVNLab/sugar-crepe; --images names COCO's folder val2017, or a folder of shards."
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A caption of an image, and a caption that is wrong."""

    image: str
    caption: str
    negative: str


@dataclass(frozen=True, kw_only=True)
class SugarCrepe:
    """The pairs of each category, and their images."""

    pairs: Mapping[str, Sequence[Pair]]
    images: ImageFiles
    left_out: int
    """Pairs whose image is not there."""
    missing: tuple[str, ...]
    """Categories whose file is not there."""


@dataclass(frozen=True, kw_only=True)
class SugarCrepeResult:
    """Accuracy by category, in [0, 1]."""

    model: str
    fingerprint: str
    accuracy: Mapping[str, float]
    mean: float
    """Over categories."""
    pairs: Mapping[str, int]
    left_out: int
    """Pairs whose image is not there; published figures are of all 7,511 pairs."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_sugarcrepe(root: Path, images: Path | None = None) -> SugarCrepe:
    """Read ``CATEGORY.json``, each ``{"0": {"filename", "caption", "negative_caption"}, ...}``.

    Args:
        root: the folder of these files, or the one that contains it as ``data``.
        images: folder of the images, or of webdataset shards of them; by default ``val2017`` or ``images`` in ``root``.

    Raises:
        CorpusError: there is no category or none of its images, or a file is broken or of another version.
    """
    folder = root / "data" if (root / "data").is_dir() else root
    files = {category: folder / f"{category}.json" for category in CATEGORIES}
    found = {category: _pairs(path) for category, path in files.items() if path.is_file()}
    if not found:
        raise CorpusError(f"{folder} contains none of {', '.join(path.name for path in files.values())}.", hint=_FETCH)
    try:
        images = images or first_existing(root, "val2017", "images")
        gallery = ImageFiles.scan(images, ["*.tar"] if any(images.glob("*.tar")) else ["."])
    except CorpusError as error:
        raise CorpusError(str(error), hint=_FETCH) from error
    known = set(gallery)
    kept = {category: [pair for pair in pairs if pair.image in known] for category, pairs in found.items()}
    wanted = dict.fromkeys(pair.image for pairs in kept.values() for pair in pairs)
    if empty := [category for category, pairs in kept.items() if not pairs]:
        raise CorpusError(f"{images} has none of the images of {empty[0]}.", hint=_FETCH)
    return SugarCrepe(
        pairs=kept,
        images=gallery.only(list(wanted)),
        left_out=sum(map(len, found.values())) - sum(map(len, kept.values())),
        missing=tuple(category for category in CATEGORIES if category not in found),
    )


def measure_sugarcrepe(
    encoder: Encoder, found: SugarCrepe, *, cache: Path | None, progress: Progress = no_progress
) -> SugarCrepeResult:
    """Measure an encoder.

    Raises:
        CorpusError: an image cannot be decoded.
    """
    row_of = {image: row for row, image in enumerate(found.images)}
    texts = dict.fromkeys(
        text for pairs in found.pairs.values() for pair in pairs for text in (pair.caption, pair.negative)
    )
    text_row = {text: row for row, text in enumerate(texts)}
    images = embed_images(encoder, found.images, cache=cache, progress=progress)
    captions = embed_captions(encoder, list(texts), cache=cache, progress=progress)

    def scores(pairs: Sequence[Pair], said: Sequence[str]) -> np.ndarray:
        rows = images[[row_of[pair.image] for pair in pairs]]
        cosines: np.ndarray = np.einsum("nd,nd->n", rows, captions[[text_row[text] for text in said]])
        return cosines

    accuracy = {
        category: float((scores(pairs, [p.caption for p in pairs]) > scores(pairs, [p.negative for p in pairs])).mean())
        for category, pairs in found.pairs.items()
    }
    return SugarCrepeResult(
        model=encoder.name,
        fingerprint=encoder.fingerprint,
        accuracy=accuracy,
        mean=sum(accuracy.values()) / len(accuracy),
        pairs={category: len(pairs) for category, pairs in found.pairs.items()},
        left_out=found.left_out,
    )


def _pairs(path: Path) -> list[Pair]:
    data = read_json(path)
    if not isinstance(data, dict) or not data:
        raise CorpusError(f"{path} is not a JSON object of pairs.")
    pairs = []
    for key, entry in data.items():
        said = [entry.get(name) for name in _KEYS] if isinstance(entry, dict) else []
        texts = [text for text in said if isinstance(text, str) and text]
        if len(texts) < len(_KEYS):
            raise CorpusError(f"{path}, entry {key!r}, lacks one of {', '.join(_KEYS)}.")
        pairs.append(Pair(image=texts[0], caption=texts[1], negative=texts[2]))
    return pairs
