"""What an evaluation costs: every figure of a set of COCO 5K's shape, of vectors drawn at random.

Random vectors find their partner by chance alone, and chance is known: the recalls are checked against it.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm2clip_search.base.memory import peak_bytes
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.measures import ranking_measures
from llm2clip_search.evaluation.metrics import KS, retrieval_ranks
from llm2clip_search.evaluation.statistics import recall_intervals

COCO_IMAGES = 5000
COCO_CAPTIONS = 25010
"""All captions of Karpathy's test split, as CLIP_benchmark reads them."""
FAR = 6.0
"""Standard errors from chance beyond which a recall is not chance's: where one hit is expected, as of COCO 5K's
``text_retrieval_recall@1``, chance goes so far once in 100,000 draws, and more rarely elsewhere."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSpeed:
    """One evaluation of random vectors."""

    images: int
    captions: int
    dim: int
    ranks_seconds: float
    """Of both ways' recalls."""
    measures_seconds: float
    intervals_seconds: float
    peak_gb: float
    """The process's high-water mark of resident memory in GB (1e9 bytes), vectors included."""
    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    """Expected recalls, by the keys of ``metrics``."""
    measures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    @property
    def seconds(self) -> float:
        """Of all figures; drawing the vectors is not counted."""
        return self.ranks_seconds + self.measures_seconds + self.intervals_seconds

    @property
    def at_chance(self) -> bool:
        """Whether every recall is within `FAR` standard errors of chance."""
        queries = {"image_retrieval": self.captions, "text_retrieval": self.images}
        return all(
            abs(self.metrics[key] - p) <= FAR * np.sqrt(p * (1 - p) / queries[key.partition("_recall")[0]]) + 1e-6
            for key, p in self.chance.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """Fields, ``seconds`` and ``at_chance``."""
        return asdict(self) | {"seconds": self.seconds, "at_chance": self.at_chance}


def evaluate_random(
    *, images: int = COCO_IMAGES, captions: int = COCO_CAPTIONS, dim: int = 1280, seed: int = 0
) -> EvaluationSpeed:
    """Draw unit vectors, evaluate them as a data set is, and time it.

    Captions are dealt to the images in turn, so that 25,010 give 10 of 5,000 images a sixth.

    Raises:
        CorpusError: fewer captions than images: some would have none, and chance is not of them.
    """
    if captions < images:
        raise CorpusError(f"{captions:,} captions are fewer than {images:,} images; give --captions {images} or more.")
    generator = np.random.default_rng(seed)
    image_vectors, caption_vectors = _unit(generator, images, dim), _unit(generator, captions, dim)
    image_of = np.sort(np.arange(captions) % images)
    marks = [time.perf_counter()]
    ranks = retrieval_ranks(image_vectors, caption_vectors, image_of)
    marks.append(time.perf_counter())
    further = ranking_measures(image_vectors, caption_vectors, image_of, ranks)
    marks.append(time.perf_counter())
    bounds = recall_intervals(ranks, image_of)
    marks.append(time.perf_counter())
    ranks_seconds, measures_seconds, intervals_seconds = np.diff(marks).tolist()
    return EvaluationSpeed(
        images=images,
        captions=captions,
        dim=dim,
        ranks_seconds=ranks_seconds,
        measures_seconds=measures_seconds,
        intervals_seconds=intervals_seconds,
        peak_gb=peak_bytes() / 1e9,
        metrics=ranks.recalls(),
        chance=chance_recalls(images, np.bincount(image_of, minlength=images)),
        measures=further,
        intervals=bounds,
    )


def chance_recalls(images: int, captions_of: np.ndarray) -> dict[str, float]:
    """Expected recalls of a random order, keys as of `metrics.RetrievalRanks.recalls`.

    A caption's image is among k of n with probability k / n. Of an image's m captions none is among k of n with
    ``prod over i < k of (n - m - i) / (n - i)``.

    Args:
        captions_of: int64 ``[images]``, captions of each image.
    """
    found = {f"image_retrieval_recall@{k}": min(k / images, 1.0) for k in KS}
    total = int(captions_of.sum())
    for k in KS:
        drawn = np.arange(min(k, total))
        missed = np.clip((total - captions_of[:, None] - drawn) / (total - drawn), 0, 1).prod(axis=1)
        found[f"text_retrieval_recall@{k}"] = float(1 - missed.mean())
    return found


def _unit(generator: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = generator.standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
