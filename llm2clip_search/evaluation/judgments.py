"""Retrieval on COCO 5K with relevance judgments beyond its own captions (ECCV Caption, CxC), and on COCO 1K.

Many of COCO's captions also describe other images than their own. ECCV Caption (Chun et al., arXiv 2204.03359) and
Crisscrossed Captions (CxC; Parekh et al., arXiv 2004.15020) list further positives for Karpathy's test split. Ground
truth and formulas are those of the package ``eccv-caption`` 0.1.0, whose data files are read. Its gallery has 5,000
images and 25,000 captions, five per image; captions beyond these are dropped first.

Keys are ``image_retrieval_X`` (text query) and ``text_retrieval_X`` (image query), where X is one of

* ``eccv_map_at_r``, ``eccv_r_precision``, ``eccv_recall@1``: over 1,332 captions and 1,261 images. Two positives are
  not among the captions of the gallery, so every model misses them.
* ``cxc_recall@k``: over 24,972 captions and 5,000 images.
* ``coco_5k_recall@k``: COCO's own positives over the 25,000 captions; CLIP_benchmark's figure is over 25,010.
* ``coco_1k_recall@k``: the same within five folds in the package's order, averaged over the folds.
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
"""Relevant items by query, as COCO ids, in the order of the package's file."""


def coco_1k_recalls(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, folds: int = FOLDS
) -> dict[str, float]:
    """``image_retrieval_1k_recall@k`` and ``text_retrieval_1k_recall@k``: means over folds of equal size.

    A fold is a contiguous part of the gallery; with 5,000 images this is COCO 1K. Within a fold, its images and all
    their captions are the gallery.

    Args:
        images, captions, image_of: as for `metrics.retrieval_ranks`.
        folds: number of folds.

    Raises:
        CorpusError: the images cannot be divided equally, or a fold has no captions.
    """
    if not len(images) or len(images) % folds:
        raise CorpusError(f"{len(images):,} images cannot be divided into {folds} folds of equal size.")
    size = len(images) // folds
    parts = [np.arange(fold * size, (fold + 1) * size) for fold in range(folds)]
    return _mean_recalls(images, captions, image_of, [(part, np.isin(image_of, part)) for part in parts], "1k")


def judged_measures(
    images: np.ndarray, captions: np.ndarray, image_ids: Sequence[str], caption_ids: Sequence[str]
) -> dict[str, float]:
    """All measures of this module, by the keys above.

    Args:
        images: float32 ``[5000, dim]``, L2-normalised: Karpathy's test split.
        captions: float32 ``[n, dim]``, L2-normalised: at least the package's 25,000.
        image_ids: COCO image id of each row of ``images``.
        caption_ids: COCO annotation id of each row of ``captions``.

    Raises:
        CorpusError: the ground truth is not installed, ids are not COCO's, the images are not exactly the 5,000, or
            some of the 25,000 captions are missing.
    """
    truth = ground_truth()
    image_row = _rows(image_ids, "images")
    caption_row = _rows(caption_ids, "captions")
    own_images, own_captions = set(truth.coco.text_retrieval), set(truth.coco.image_retrieval)
    if image_row.keys() != own_images or not caption_row.keys() >= own_captions:
        raise CorpusError(
            f"ECCV Caption and CxC apply only to COCO's Karpathy test split: {len(own_images & image_row.keys()):,} of "
            f"its {len(own_images):,} images are among the {len(image_ids):,} given, "
            f"{len(own_captions & caption_row.keys()):,} of its {len(own_captions):,} captions are among the "
            f"{len(caption_ids):,} given."
        )
    gallery = [number for number in caption_row if number in own_captions]
    rows = np.array([caption_row[number] for number in gallery])
    ways = {
        "image_retrieval": _Direction(captions[rows], images, gallery, list(image_row)),
        "text_retrieval": _Direction(images, captions[rows], list(image_row), gallery),
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
    """The positives of one source, in both directions."""

    image_retrieval: Positives
    """Relevant images by caption."""
    text_retrieval: Positives
    """Relevant captions by image."""


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """The contents of the package ``eccv-caption``."""

    coco: Judgments
    cxc: Judgments
    eccv: Judgments
    caption_order: tuple[int, ...]
    """Ids of the 25,000 captions; five equal parts of this sequence are the folds of COCO 1K."""


@cache
def ground_truth() -> GroundTruth:
    """Read the ground truth from the installed package.

    Raises:
        CorpusError: the package is not installed, or its files are damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on import it warns that an optional JSON library is missing
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
            "The judgments of ECCV Caption and CxC are not installed; pip install 'llm2clip-search[bench]' adds them."
        ) from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CorpusError(
            f"The files of the package eccv-caption cannot be read: {error}; install it again."
        ) from error
    return GroundTruth(
        coco=named["original"], cxc=named["cxc"], eccv=named["eccv"], caption_order=tuple(map(int, order))
    )


def _positives(raw: Mapping[str, Sequence[Any]]) -> Positives:
    return {int(query): frozenset(map(int, found)) for query, found in raw.items()}


def _rows(ids: Sequence[str], what: str) -> dict[int, int]:
    """Row by COCO id; ``what`` names the items in errors."""
    numbers = [int(number) if number.isascii() and number.isdecimal() else None for number in ids]
    if foreign := [own for own, number in zip(ids, numbers, strict=True) if number is None]:
        raise CorpusError(
            f"{len(foreign):,} of {len(ids):,} {what} have ids that are not COCO ids (numbers), such as {foreign[0]!r}."
        )
    rows = {number: row for row, number in enumerate(numbers) if number is not None}
    if len(rows) < len(ids):
        raise CorpusError(f"{len(ids):,} {what} have only {len(rows):,} different COCO ids.")
    return rows


class _Direction:
    """Retrieval in one direction: the ids of the items nearest to each query."""

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
        """Share of queries with at least one positive among the k nearest."""
        return float(np.mean([not found.isdisjoint(self._nearest(query, k)) for query, found in positives.items()]))

    def precision(self, positives: Positives) -> dict[str, float]:
        """mAP@R, R-precision and recall@1; see module `measures` for the formulas."""
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
    """``coco_1k_recall@k`` with the package's folds."""
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
    """Recalls averaged over parts.

    Args:
        parts: for each part the rows of its images, ascending, and which captions describe them, bool ``[n_captions]``.
        name: part of the keys, ``DIRECTION_NAME_recall@k``.
    """
    recalls: dict[str, list[float]] = {}
    for rows, of_part in parts:
        if not of_part.any():
            raise CorpusError(f"{len(rows):,} of {len(images):,} images form a fold without a caption.")
        ranks = retrieval_ranks(images[rows], captions[of_part], np.searchsorted(rows, image_of[of_part]))
        for way, rank in (("image_retrieval", ranks.image_retrieval), ("text_retrieval", ranks.text_retrieval)):
            for k in KS:
                recalls.setdefault(f"{way}_{name}_recall@{k}", []).append(float((rank < k).mean()))
    return {key: float(np.mean(values)) for key, values in recalls.items()}
