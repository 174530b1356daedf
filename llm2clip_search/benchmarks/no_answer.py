"""Can a model tell that a caption's image is not there, and tell it from images that are described alike?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.base.vectors import unit
from llm2clip_search.benchmarks.datasets.base import Captions, RetrievalSet
from llm2clip_search.benchmarks.embedding import embed_captions, embed_images
from llm2clip_search.benchmarks.sentence_baselines import tf_idf
from llm2clip_search.encoders import Encoder, TowerEncoder
from llm2clip_search.encoders.calibration import Calibration
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.hard_negatives import hard_negatives, ranks_among
from llm2clip_search.evaluation.no_answer import (
    BestHits,
    auc,
    best_hits,
    calibration_error,
    fit_calibration,
)

SMALLEST = 40
"""Images of the smallest gallery that a calibration is fitted to."""
MOST_COMPARED = 10_000
"""Images of the largest gallery whose hard negatives are found: words are compared as dense vectors."""
TOGETHER = "all in one gallery"
"""Name of the gallery that all data sets make together."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A data set in one language, as vectors."""

    name: str
    language: str
    images: np.ndarray
    """float32 ``[n_images, dim]``, L2-normalised."""
    captions: np.ndarray
    """float32 ``[n_captions, dim]``, L2-normalised."""
    image_of: np.ndarray
    """int64 ``[n_captions]``, the row of each caption's image."""
    described: Sequence[str]
    """All captions of each image in one text, by row; empty for images without captions."""
    contents: Sequence[str]
    """Content hash of each image, by row."""

    def part(self, rows: np.ndarray) -> "Embedded":
        """The gallery of some images, int64 ascending, and their captions."""
        kept = np.isin(self.image_of, rows)
        return Embedded(
            name=self.name,
            language=self.language,
            images=self.images[rows],
            captions=self.captions[kept],
            image_of=np.searchsorted(rows, self.image_of[kept]),
            described=[self.described[row] for row in rows.tolist()],
            contents=[self.contents[row] for row in rows.tolist()],
        )


@dataclass(frozen=True, kw_only=True)
class NoAnswerResult:
    """The measures of one encoder on one gallery; AUCs and recalls are in [0, 1]."""

    dataset: str
    language: str
    model: str
    fingerprint: str
    images: int
    captions: int
    image_retrieval_recall_at_1: float
    """Share of captions whose best hit is right."""
    auc: Mapping[str, float | None]
    """By statistic, how well it separates right best hits from those of galleries without the caption's image."""
    auc_of_all: Mapping[str, float | None]
    """The same for the best hits of all captions whose image is there, right or wrong."""
    calibration_error: float | None
    """Of the probabilities, see `no_answer.calibration_error`; None for a model that is not calibrated."""
    hard_negative_recall_at_1: float | None
    """Share of captions by which their image ranks above all of its hard negatives.

    None without words to compare, as in languages written without spaces, and for more than `MOST_COMPARED` images."""
    hard_negative_mean_rank: float | None
    """Mean rank of the image among its hard negatives, from 1."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def embed_set(
    encoder: Encoder, dataset: RetrievalSet, *, cache: Path | None, progress: Progress = no_progress
) -> list[Embedded]:
    """Embed a data set, once for each of its languages.

    Raises:
        CorpusError: an image cannot be decoded, or there are fewer than two.
    """
    ids = list(dataset.images)
    if len(ids) < 2:
        raise CorpusError(f"{dataset.name} {dataset.split} has {len(ids)} image; at least two are needed.")
    images = embed_images(encoder, dataset.images, cache=cache, progress=progress)
    return [
        Embedded(
            name=f"{dataset.name} {dataset.split}",
            language=lang,
            images=images,
            captions=embed_captions(encoder, captions.texts, cache=cache, progress=progress),
            image_of=captions.rows_in(ids),
            described=_described(captions, ids),
            contents=list(dataset.images.content_hashes.values()),
        )
        for lang, captions in dataset.captions.items()
    ]


def joined_gallery(sets: Sequence[Embedded]) -> Embedded:
    """All images of some data sets in one gallery; an image that is in several of them, or has several languages, is in
    it once: with a copy left, a caption's image would not be removed."""
    row_of: dict[str, int] = {}
    for content in (content for each in sets for content in each.contents):
        row_of.setdefault(content, len(row_of))
    rows = [np.array([row_of[content] for content in each.contents], dtype=np.int64) for each in sets]
    images = np.empty((len(row_of), sets[0].images.shape[1]), dtype=np.float32)
    described = [""] * len(row_of)
    for each, of_it in zip(sets, rows, strict=True):
        images[of_it] = each.images
        for row, text in zip(of_it.tolist(), each.described, strict=True):
            described[row] = f"{described[row]} {text}".strip()
    return Embedded(
        name=TOGETHER,
        language=", ".join(dict.fromkeys(each.language for each in sets)),
        images=images,
        captions=np.concatenate([each.captions for each in sets]),
        image_of=np.concatenate([of_it[each.image_of] for each, of_it in zip(sets, rows, strict=True)]),
        described=described,
        contents=list(row_of),
    )


def measure_no_answer(encoder: Encoder, found: Embedded) -> NoAnswerResult:
    """Measure an encoder on one gallery."""
    there = best_hits(found.images, found.captions, found.image_of)
    removed = best_hits(found.images, found.captions, found.image_of, without_own=True)
    with_image, without = statistics(encoder, found, there), statistics(encoder, found, removed)
    error = None
    if encoder.calibration is not None:
        probable = np.concatenate([each.probability(encoder.calibration) for each in (there, removed)])
        error = calibration_error(probable, np.concatenate([there.is_right, removed.is_right]))
    ranks = _hard_ranks(found)
    return NoAnswerResult(
        dataset=found.name,
        language=found.language,
        model=encoder.name,
        fingerprint=encoder.fingerprint,
        images=len(found.images),
        captions=len(found.captions),
        image_retrieval_recall_at_1=float(there.is_right.mean()),
        auc={name: auc(values[there.is_right], without[name]) for name, values in with_image.items()},
        auc_of_all={name: auc(values, without[name]) for name, values in with_image.items()},
        calibration_error=error,
        hard_negative_recall_at_1=None if ranks is None else float((ranks == 0).mean()),
        hard_negative_mean_rank=None if ranks is None else float(ranks.mean()) + 1.0,
    )


def statistics(encoder: Encoder, found: Embedded, hits: BestHits) -> dict[str, np.ndarray]:
    """What a query could be told by, by name: float64 ``[n_captions]`` each.

    ``tower_cosine`` is the cosine before querybank normalisation, of a model that has one.
    """
    named = {"cosine": hits.score, "z_score": hits.z_score, "lead_10": hits.lead_10, "lead": hits.lead}
    if isinstance(encoder, TowerEncoder) and encoder.model.config.querybank:
        images, captions = unit(found.images[:, :-2]), unit(found.captions[:, :-2])
        named["tower_cosine"] = np.einsum("nd,nd->n", captions, images[hits.hit]).astype(np.float64)
    if encoder.calibration is not None:
        named["probability"] = hits.probability(encoder.calibration)
    return named


def calibrate(sets: Sequence[Embedded], *, seed: int = 0) -> Calibration:
    """Fit a calibration to galleries of many sizes: each data set and all of them together, halved again and again.

    Raises:
        CorpusError: the best hits of all captions are right, or all are wrong.
    """
    galleries = [*sets, *([joined_gallery(sets)] if len(sets) > 1 else [])]
    hits = [each for gallery in galleries for part in _halved(gallery, seed) for each in _both(part)]
    try:
        return fit_calibration(hits, fitted_on=[f"{each.name} {each.language}" for each in sets])
    except ValueError as error:
        raise CorpusError(f"The scores cannot be calibrated: {error}.") from error


def _halved(gallery: Embedded, seed: int) -> Iterator[Embedded]:
    order, size = np.random.default_rng(seed).permutation(len(gallery.images)), len(gallery.images)
    while size >= SMALLEST or size == len(order):
        part = gallery.part(np.sort(order[:size]))
        if len(part.captions):
            yield part
        size //= 2


def _both(part: Embedded) -> Iterator[BestHits]:
    for without_own in (False, True):
        yield best_hits(part.images, part.captions, part.image_of, without_own=without_own)


def _described(captions: Captions, ids: Sequence[str]) -> list[str]:
    texts: dict[str, list[str]] = {image: [] for image in ids}
    for text, image in zip(captions.texts, captions.image_ids, strict=True):
        texts[image].append(text)
    return [" ".join(said) for said in texts.values()]


def _hard_ranks(found: Embedded) -> np.ndarray | None:
    """Ranks of each caption's image among the images that TF-IDF finds to be described most similarly."""
    if len(found.images) > MOST_COMPARED or not (documents := tf_idf(found.described)).any():
        return None
    return ranks_among(found.images, found.captions, found.image_of, hard_negatives(documents))
