"""Builders of retrieval results with random ranks."""

from collections.abc import Sequence

import numpy as np

from llm2clip_search.benchmarks.results import RetrievalResult
from llm2clip_search.evaluation.metrics import NEVER, RetrievalRanks

IMAGES, PER_IMAGE = 40, 3


def result_of(
    model: str,
    *,
    language: str = "en",
    better: float = 1.0,
    seed: int = 0,
    dataset: str = "flickr8k",
    never: Sequence[int] = (),
) -> RetrievalResult:
    """A result with random ranks; with the same seed, a larger ``better`` gives lower ranks."""
    generator = np.random.default_rng([seed, *language.encode()])
    drawn = {
        "image_retrieval": (generator.exponential(6, IMAGES * PER_IMAGE) / better).astype(np.int64),
        "text_retrieval": (generator.exponential(4, IMAGES) / better).astype(np.int64),
    }
    for image in never:
        drawn["text_retrieval"][image] = NEVER
    recalls = RetrievalRanks(**drawn).recalls()
    return RetrievalResult(
        dataset=dataset,
        model=model,
        pretrained="",
        language=language,
        metrics=recalls,
        split="dev",
        images=IMAGES,
        captions=IMAGES * PER_IMAGE,
        captions_per_image="all",
        fingerprint=f"fingerprint of {model}",
        data=f"digest of {dataset} {language}",
        measures={"mean_recall": sum(recalls.values()) / 6, "image_retrieval_median_rank": 4.0},
        intervals={key: [max(0.0, value - 0.1), min(1.0, value + 0.1)] for key, value in recalls.items()},
        seconds=0.0,
        ranks={way: np.where(rank == NEVER, -1, rank).tolist() for way, rank in drawn.items()}
        | {
            "image_of": np.repeat(np.arange(IMAGES), PER_IMAGE).tolist(),
            "caption_tokens": generator.integers(3, 30, IMAGES * PER_IMAGE).tolist(),
        },
    )
