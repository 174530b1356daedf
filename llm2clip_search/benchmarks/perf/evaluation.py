"""Time and memory of an evaluation: all measures of a data set of COCO 5K's shape, with random vectors.

Random vectors find their counterpart only by chance. The expected recalls are known, and the results are checked
against them.
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
"""All captions of Karpathy's test split, as read by CLIP_benchmark."""
FAR = 6.0
"""Number of standard errors beyond which a recall is not explained by chance. If one hit is expected, as for the
``text_retrieval_recall@1`` of COCO 5K, chance deviates this far once in 100,000 draws; otherwise more rarely."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSpeed:
    """Time, memory and results of one evaluation of random vectors."""

    images: int
    captions: int
    dim: int
    ranks_seconds: float
    """Time for the recalls in both directions."""
    measures_seconds: float
    intervals_seconds: float
    peak_gb: float
    """Peak resident memory of the process in GB (1e9 bytes), including the vectors."""
    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    """Expected recalls by the keys of ``metrics``."""
    measures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    @property
    def seconds(self) -> float:
        """Total time without drawing the vectors."""
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
        """All fields, ``seconds`` and ``at_chance``."""
        return asdict(self) | {"seconds": self.seconds, "at_chance": self.at_chance}


def evaluate_random(
    *, images: int = COCO_IMAGES, captions: int = COCO_CAPTIONS, dim: int = 1280, seed: int = 0
) -> EvaluationSpeed:
    """Draw unit vectors, evaluate them like a data set, and measure time and memory.

    Captions are assigned to images in turn, so with 25,010 captions 10 of 5,000 images have a sixth caption.

    Raises:
        CorpusError: there are fewer captions than images; the expected recalls are not defined for images without
            captions.
    """
    if captions < images:
        raise CorpusError(
            f"{captions:,} captions are fewer than {images:,} images, so some images would have none.",
            hint=f"Give --captions {images} or more.",
        )
    generator = np.random.default_rng(seed)
    image_vectors, caption_vectors = _draw(generator, images, dim), _draw(generator, captions, dim)
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
    """Expected recalls of a random order, by the keys of `metrics.RetrievalRanks.recalls`.

    The image of a caption is among k of n images with probability ``k / n``. None of the m captions of an image is
    among k of n captions with probability ``prod over i < k of (n - m - i) / (n - i)``.

    Args:
        captions_of: int64 ``[images]``, number of captions of each image.
    """
    found = {f"image_retrieval_recall@{k}": min(k / images, 1.0) for k in KS}
    total = int(captions_of.sum())
    for k in KS:
        drawn = np.arange(min(k, total))
        missed = np.clip((total - captions_of[:, None] - drawn) / (total - drawn), 0, 1).prod(axis=1)
        found[f"text_retrieval_recall@{k}"] = float(1 - missed.mean())
    return found


def _draw(generator: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """Random unit vectors, normalised in place: a copy would count towards the peak of memory."""
    vectors = generator.standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
