"""Recall@k of an encoder on a benchmark by language, with further measures, intervals and provenance."""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.benchmarks.datasets.base import DatasetInfo, RetrievalSet, images_digest, texts_digest
from llm2clip_search.benchmarks.embedding import embed_captions, embed_images
from llm2clip_search.benchmarks.results import RetrievalResult, pretrained_of
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.judgments import coco_1k_recalls, judged_measures
from llm2clip_search.evaluation.measures import ranking_measures
from llm2clip_search.evaluation.metrics import NEVER, RetrievalRanks, retrieval_ranks
from llm2clip_search.evaluation.statistics import recall_intervals


def measure_retrieval(
    encoder: Encoder,
    dataset: RetrievalSet,
    *,
    captions_per_image: str = "all",
    trained_on: str = "",
    drafts: bool = False,
    cache: Path | None = None,
    cluster: ClusterConfig | None = None,
    progress: Progress = no_progress,
) -> Iterator[RetrievalResult]:
    """Measure an encoder; images are embedded once for all languages.

    Args:
        captions_per_image: how the captions of ``dataset`` were selected; only recorded in the result, see
            `RetrievalSet.changed`.
        trained_on: recorded in the result, see `seen_in_training`.
        drafts: read large JPEGs at reduced size, as indexing does; a note in the results says so.
        cache: folder of cached embeddings; None to cache nothing.
        cluster: embed there; by default in this process.

    Yields:
        One result per language.

    Raises:
        CorpusError: an image cannot be decoded.
    """
    image_ids = list(dataset.images)
    pictures = images_digest(dataset.images)
    images = embed_images(encoder, dataset.images, drafts=drafts, cache=cache, cluster=cluster, progress=progress)
    for lang, captions in dataset.captions.items():
        started = time.perf_counter()
        vectors = embed_captions(encoder, captions.texts, cache=cache, cluster=cluster, progress=progress)
        seconds = time.perf_counter() - started
        image_of = captions.rows_in(image_ids)
        ranks = retrieval_ranks(images, vectors, image_of)
        further = ranking_measures(images, vectors, image_of, ranks)
        notes = [*dataset.notes]
        if drafts:
            notes.append("Large JPEGs were read at reduced size, as indexing reads them.")
        if dataset.folds:
            further |= coco_1k_recalls(images, vectors, image_of, folds=dataset.folds)
        if dataset.judged:
            try:
                further |= judged_measures(images, vectors, image_ids, captions.caption_ids)
            except CorpusError as error:  # not installed, or not the full caption set: recall is valid all the same
                notes.append(f"ECCV Caption and CxC are left out: {error}")
        yield RetrievalResult(
            dataset=dataset.name,
            model=encoder.name,
            pretrained=pretrained_of(encoder.name),
            language=lang,
            metrics=ranks.recalls(),
            split=dataset.split,
            images=len(images),
            captions=len(vectors),
            captions_per_image=captions_per_image,
            fingerprint=encoder.fingerprint,
            data=texts_digest([pictures, captions.digest()]),
            measures=further,
            intervals={key: list(bounds) for key, bounds in recall_intervals(ranks, image_of).items()},
            trained_on=trained_on,
            notes=notes,
            seconds=seconds,
            ranks=_ranks_for_json(ranks, image_of) | {"caption_tokens": encoder.count_tokens(captions.texts)},
        )


def seen_in_training(dataset: DatasetInfo, split: str, training_data: Sequence[str]) -> str:
    """Find the line of a model's card that says the model has seen this split in training; empty if there is none.

    A line that names splits of the data set refers only to these; a line that names just the data set is taken to refer
    to all of it. What follows the word "without" in a line is ignored.

    Args:
        training_data: the lines about training data in the model's card.
    """
    names = [re.escape(name) for name in (dataset.title, *dataset.also_called)]
    named = re.compile(rf"(?<!\w)({'|'.join(names)})(?!\w)", re.IGNORECASE)
    kind = split.partition("_")[0]  # test_2016_flickr is a test split
    word = r"dev|val(?:idation)?" if kind in ("dev", "val") else re.escape(kind)
    for line in training_data:
        kept = re.split(r"\bwithout\b", line)[0]
        if not named.search(kept):
            continue
        splits = re.findall(r"\b(train|dev|val(?:idation)?|test)\b(?= splits?\b)", kept)
        if not splits or any(re.fullmatch(word, found) for found in splits):
            return line
    return ""


def _ranks_for_json(ranks: RetrievalRanks, image_of: np.ndarray) -> dict[str, list[int]]:
    """Ranks as lists, with -1 for `NEVER`."""
    rows = {"image_retrieval": ranks.image_retrieval, "text_retrieval": ranks.text_retrieval}
    return {name: np.where(rank == NEVER, -1, rank).tolist() for name, rank in rows.items()} | {
        "image_of": image_of.tolist()
    }
