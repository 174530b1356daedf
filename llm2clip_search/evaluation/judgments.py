"""Figures of COCO 5K by judgments beyond its own captions: ECCV Caption and CxC; and COCO 1K.

COCO's captions fit more images than their own. ECCV Caption (Chun et al., arXiv 2204.03359) and Crisscrossed
Captions (Parekh et al., arXiv 2004.15020) list further positives for Karpathy's test split. The ground truth and the
formulae are those of package ``eccv-caption`` 0.1.0, whose own files are read; its gallery has 5,000 images and
25,000 captions, five an image, and captions beyond them are left out first.

Keys are ``image_retrieval_X`` (a caption asks) and ``text_retrieval_X`` (an image asks), with X one of

* ``eccv_map_at_r``, ``eccv_r_precision``, ``eccv_recall@1``: over 1,332 captions and 1,261 images. Two positives
  are no captions of the gallery and are missed by everyone.
* ``cxc_recall@k``: over 24,972 captions and 5,000 images.
* ``coco_5k_recall@k``: COCO's own positives over the 25,000; CLIP_benchmark's figure is over 25,010.
* ``coco_1k_recall@k``: the same within five folds in the package's order; their mean.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import BytesIO
from typing import Any

import numpy as np

from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import KS, nearest_rows, retrieval_ranks

FOLDS = 5

Positives = Mapping[int, frozenset[int]]
"""What is relevant to a query, by COCO's ids, in the order of the package's file."""


def coco_1k_recalls(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, folds: int = FOLDS
) -> dict[str, float]:
    """``image_retrieval_1k_recall@k`` and ``text_retrieval_1k_recall@k``: means over equal parts of the images.

    Parts follow each other in the gallery's order; 5,000 images give COCO 1K. Within a part its images and all of
    their captions are searched. Arguments as of `metrics.retrieval_ranks`.

    Raises:
        CorpusError: images that cannot be parted equally, or a part without captions.
    """
    if not len(images) or len(images) % folds:
        raise CorpusError(f"{len(images):,} images cannot be parted into {folds} folds of one size.")
    size = len(images) // folds
    parts = [np.arange(fold * size, (fold + 1) * size) for fold in range(folds)]
    return _mean_recalls(images, captions, image_of, [(part, np.isin(image_of, part)) for part in parts], "1k")


def judged_measures(
    images: np.ndarray, captions: np.ndarray, image_ids: Sequence[str], caption_ids: Sequence[str]
) -> dict[str, float]:
    """All figures of the module's list.

    Args:
        images: float32 ``[5000, dim]``, L2-normalised: Karpathy's test split.
        captions: float32 ``[n, dim]``, L2-normalised: at least the 25,000.
        image_ids: COCO's numbers, of each row of ``images``.
        caption_ids: annotation ids, of each row of ``captions``.

    Raises:
        CorpusError: the ground truth is not installed; ids that are not COCO's; images other than the 5,000, or
            captions that lack some of the 25,000.
    """
    truth = ground_truth()
    image_row = _rows(image_ids, "images")
    caption_row = _rows(caption_ids, "captions")
    own_images, own_captions = set(truth.coco.text_retrieval), set(truth.coco.image_retrieval)
    if image_row.keys() != own_images or not caption_row.keys() >= own_captions:
        raise CorpusError(
            f"ECCV Caption and CxC judge COCO's Karpathy test split: of its {len(own_images):,} images "
            f"{len(own_images & image_row.keys()):,} are here among {len(image_ids):,}, of its {len(own_captions):,} "
            f"captions {len(own_captions & caption_row.keys()):,} among {len(caption_ids):,}."
        )
    gallery = [number for number in caption_row if number in own_captions]
    rows = np.array([caption_row[number] for number in gallery])
    ways = {
        "image_retrieval": _Way(captions[rows], images, gallery, list(image_row)),
        "text_retrieval": _Way(images, captions[rows], list(image_row), gallery),
    }
    found: dict[str, float] = {}
    for name, way in ways.items():
        eccv, cxc, coco = (getattr(positives, name) for positives in (truth.eccv, truth.cxc, truth.coco))
        found |= {f"{name}_eccv_{key}": value for key, value in way.precision(eccv).items()}
        found |= {f"{name}_cxc_recall@{k}": way.recall(cxc, k) for k in KS}
        found |= {f"{name}_coco_5k_recall@{k}": way.recall(coco, k) for k in KS}
    return found | _folded(truth, images, captions[rows], list(image_row), gallery)


@dataclass(frozen=True, kw_only=True)
class Judgments:
    """One collection of judgments."""

    image_retrieval: Positives
    """Of captions, the images."""
    text_retrieval: Positives
    """Of images, the captions."""


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """What package ``eccv-caption`` holds."""

    coco: Judgments
    cxc: Judgments
    eccv: Judgments
    caption_order: tuple[int, ...]
    """The 25,000 captions; five equal parts of it are the folds of COCO 1K."""


@cache
def ground_truth() -> GroundTruth:
    """Read from the installed package.

    Raises:
        CorpusError: it is not installed, or its files are damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at its import it tells which JSON library it does without
            data = resources.files("eccv_caption") / "data"
        named = {
            name: Judgments(
                image_retrieval=_positives(json.loads((data / f"{name}_caption_to_image.json").read_bytes())),
                text_retrieval=_positives(json.loads((data / f"{name}_image_to_caption.json").read_bytes())),
            )
            for name in ("original", "cxc", "eccv")
        }
        order = np.load(BytesIO((data / "coco_test_ids.npy").read_bytes()), allow_pickle=False)
    except ModuleNotFoundError as error:
        raise CorpusError(
            "The judgments of ECCV Caption and CxC are not installed; run pip install 'llm2clip-search[bench]'."
        ) from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CorpusError(f"The files of package eccv-caption cannot be read: {error}; install it again.") from error
    return GroundTruth(
        coco=named["original"], cxc=named["cxc"], eccv=named["eccv"], caption_order=tuple(map(int, order))
    )


def _positives(raw: Mapping[str, Sequence[Any]]) -> Positives:
    return {int(query): frozenset(map(int, found)) for query, found in raw.items()}


def _rows(ids: Sequence[str], what: str) -> dict[int, int]:
    """Row by COCO's number."""
    numbers = [int(number) if number.isascii() and number.isdecimal() else None for number in ids]
    if foreign := [own for own, number in zip(ids, numbers, strict=True) if number is None]:
        raise CorpusError(
            f"{len(foreign):,} of {len(ids):,} {what} have ids that are not COCO's numbers, such as {foreign[0]!r}."
        )
    rows = {number: row for row, number in enumerate(numbers) if number is not None}
    if len(rows) < len(ids):
        raise CorpusError(f"{len(ids):,} {what} have {len(rows):,} different COCO ids.")
    return rows


class _Way:
    """One direction: queries and the ids of what is nearest to them."""

    def __init__(
        self, queries: np.ndarray, gallery: np.ndarray, query_ids: Sequence[int], gallery_ids: Sequence[int]
    ) -> None:
        truth = ground_truth()
        most = max(
            len(found)
            for judgments in (truth.eccv.image_retrieval, truth.eccv.text_retrieval)
            for found in judgments.values()
        )
        self._top = np.array(gallery_ids)[nearest_rows(queries, gallery, max(most, *KS))]
        self._row = {number: row for row, number in enumerate(query_ids)}

    def recall(self, positives: Positives, k: int) -> float:
        """Share of queries with a positive among the k nearest."""
        return float(np.mean([not found.isdisjoint(self._nearest(query, k)) for query, found in positives.items()]))

    def precision(self, positives: Positives) -> dict[str, float]:
        """mAP@R, R-precision and recall@1, see `measures`."""
        each = []
        for query, found in positives.items():
            hits = np.array([number in found for number in self._nearest(query, len(found))])
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            each.append(((precision * hits).mean(), hits.mean(), hits[0]))
        means = np.array(each, dtype=np.float64).mean(axis=0)
        return dict(zip(("map_at_r", "r_precision", "recall@1"), means.tolist(), strict=True))

    def _nearest(self, query: int, k: int) -> list[int]:
        found: list[int] = self._top[self._row[query], :k].tolist()
        return found


def _folded(
    truth: GroundTruth, images: np.ndarray, captions: np.ndarray, image_ids: list[int], caption_ids: list[int]
) -> dict[str, float]:
    """``coco_1k_recall@k`` by the package's folds."""
    row = {number: row for row, number in enumerate(image_ids)}
    image_of = np.array([row[next(iter(truth.coco.image_retrieval[number]))] for number in caption_ids])
    parts = []
    for fold in np.array_split(np.array(truth.caption_order), FOLDS):
        of_fold = np.isin(caption_ids, fold)
        parts.append((np.unique(image_of[of_fold]), of_fold))
    return _mean_recalls(images, captions, image_of, parts, "coco_1k")


def _mean_recalls(
    images: np.ndarray,
    captions: np.ndarray,
    image_of: np.ndarray,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    name: str,
) -> dict[str, float]:
    """Means over parts, each its image rows (ascending) and the captions that are of it, bool."""
    recalls: dict[str, list[float]] = {}
    for rows, of_part in parts:
        if not of_part.any():
            raise CorpusError(f"{len(rows):,} of {len(images):,} images are a fold without a caption.")
        ranks = retrieval_ranks(images[rows], captions[of_part], np.searchsorted(rows, image_of[of_part]))
        for way, rank in (("image_retrieval", ranks.image_retrieval), ("text_retrieval", ranks.text_retrieval)):
            for k in KS:
                recalls.setdefault(f"{way}_{name}_recall@{k}", []).append(float((rank < k).mean()))
    return {key: float(np.mean(values)) for key, values in recalls.items()}
