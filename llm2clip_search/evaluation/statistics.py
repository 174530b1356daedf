"""Confidence intervals of recalls, and a paired test of two runs; both resample images with all their captions.

Captions of one image are not independent, so the image is the unit of resampling.

* Intervals: percentile bootstrap over clusters (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
  chapter 13; Field and Welsh, Bootstrapping clustered data, 2007). A resample draws as many images as there are, with
  replacement; its recall is its hits divided by its queries.
* Paired test: Fisher's randomisation test (Smucker, Allan and Carterette, CIKM 2007). If the two runs are equally
  good, the sign of each image's difference is arbitrary. Two-sided,
  ``p = (1 + draws at least as far from 0) / (1 + draws)`` (Phipson and Smyth, 2010), which is never 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llm2clip_search.evaluation.metrics import KS, RetrievalRanks

RESAMPLES = 1000
"""Resamples per interval."""
SIGN_FLIPS = 9999
"""Draws of signs per test; the smallest possible p is 1 in 10,000."""
CONFIDENCE = 0.95
_BLOCK = 256
"""Draws per matrix product; bounds memory at this many values per image."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Recall of the second run minus that of the first, on the same images and captions."""

    difference: float
    low: float
    """Lower bound of the 95 % interval; ``high`` is the upper bound."""
    high: float
    p: float
    """Two-sided p-value of the paired test; the null hypothesis is that the runs do not differ."""


def recall_intervals(
    ranks: RetrievalRanks, image_of: np.ndarray, *, ks: Sequence[int] = KS, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals ``(low, high)`` of all recalls, by the keys of `metrics.RetrievalRanks.recalls`.

    Args:
        image_of: int64 ``[n_captions]``, see `metrics.retrieval_ranks`.
        seed: equal seeds give equal intervals.

    Raises:
        ValueError: ``ranks`` and ``image_of`` are of different captions, or there is nothing to draw from.
    """
    counts = _Counts(ranks, image_of, ks)
    low, high = _percentiles(counts.resampled([counts.hits], resamples, seed)[0])
    return {name: (float(low[n]), float(high[n])) for n, name in enumerate(counts.names)}


def paired_differences(
    ranks_a: RetrievalRanks,
    ranks_b: RetrievalRanks,
    image_of: np.ndarray,
    *,
    ks: Sequence[int] = KS,
    resamples: int = RESAMPLES,
    sign_flips: int = SIGN_FLIPS,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """Differences of all recalls, run b minus run a, by the keys of `metrics.RetrievalRanks.recalls`.

    Both runs must be of the same images and captions in the same order. Arguments and errors as for
    `recall_intervals`.
    """
    a, b = _Counts(ranks_a, image_of, ks), _Counts(ranks_b, image_of, ks)
    if len(a.hits) != len(b.hits):
        raise ValueError(f"run a has {len(a.hits):,} images, run b has {len(b.hits):,}")
    drawn_a, drawn_b = a.resampled([a.hits, b.hits], resamples, seed)
    low, high = _percentiles(drawn_b - drawn_a)
    p = _sign_flip_p(b.hits - a.hits, sign_flips, seed)
    difference = (b.hits.sum(axis=0) - a.hits.sum(axis=0)) / a.queries.sum(axis=0)
    return {
        name: PairedDifference(difference=float(difference[n]), low=float(low[n]), high=float(high[n]), p=float(p[n]))
        for n, name in enumerate(a.names)
    }


class _Counts:
    """Hits and queries of each image for each recall; a resample sums them over its images.

    Attributes:
        names: keys of the recalls.
        hits, queries: float64 ``[n_images, n_recalls]``.
    """

    def __init__(self, ranks: RetrievalRanks, image_of: np.ndarray, ks: Sequence[int]) -> None:
        images = len(ranks.text_retrieval)
        if len(ranks.image_retrieval) != len(image_of) or not len(image_of) or image_of.max() >= images:
            raise ValueError(
                f"{len(ranks.image_retrieval):,} ranks of captions, {len(image_of):,} entries in image_of and "
                f"{images:,} ranks of images do not belong together"
            )
        self.names = list(ranks.recalls(ks))
        of_captions = [np.bincount(image_of, weights=ranks.image_retrieval < k, minlength=images) for k in ks]
        of_images = [(ranks.text_retrieval < k).astype(np.float64) for k in ks]
        self.hits = np.stack([*of_captions, *of_images], axis=1)
        captions = np.bincount(image_of, minlength=images).astype(np.float64)
        self.queries = np.stack([captions] * len(ks) + [np.ones(images)] * len(ks), axis=1)

    def resampled(self, hits: Sequence[np.ndarray], resamples: int, seed: int) -> list[np.ndarray]:
        """Recalls of each resample, float64 ``[resamples, n_recalls]``, per array of hits, all from the same draws."""
        images = len(self.queries)
        generator = np.random.default_rng(seed)
        drawn: list[list[np.ndarray]] = [[] for _ in hits]
        for size in _blocks(resamples):
            times = generator.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float64)
            # A resample of images without captions has no caption to find; its recall is 0, as in recall itself.
            queries = np.maximum(times @ self.queries, 1)
            for out, found in zip(drawn, hits, strict=True):
                out.append(times @ found / queries)
        return [np.concatenate(parts) for parts in drawn]


def _sign_flip_p(differences: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Two-sided p of each recall.

    Args:
        differences: float64 ``[n_images, n_recalls]`` of whole numbers, so that sums and comparisons are exact.
    """
    moved = differences[differences.any(axis=1)]
    observed = np.abs(differences.sum(axis=0))
    generator = np.random.default_rng(seed)
    as_far = np.ones(differences.shape[1])
    for size in _blocks(draws):
        signs = 2.0 * generator.integers(0, 2, (size, len(moved)), dtype=np.int8) - 1
        as_far += (np.abs(signs @ moved) >= observed).sum(axis=0)
    return as_far / (1 + draws)


def _percentiles(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=0)
    return low, high


def _blocks(total: int) -> Iterator[int]:
    for start in range(0, total, _BLOCK):
        yield min(_BLOCK, total - start)
