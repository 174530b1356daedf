"""How sure a recall is, and whether two runs differ: images are drawn, each with all of its captions.

Captions of one image are not independent, so that both tools take the image as the unit.

* Intervals: the percentile bootstrap over clusters (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
  chapter 13; Field and Welsh, Bootstrapping clustered data, 2007): as many images as there are are drawn with
  replacement; a recall of a draw is its hits over its queries.
* Paired test: Fisher's randomisation test (Smucker, Allan and Carterette, CIKM 2007): were the two runs alike, each
  image's difference could as well have the other sign. Two-sided,
  ``p = (1 + draws at least as far from 0) / (1 + draws)`` (Phipson and Smyth, 2010), so that it is never 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llm2clip_search.evaluation.metrics import KS, RetrievalRanks

RESAMPLES = 1000
"""Draws of images an interval is made of."""
SIGN_FLIPS = 9999
"""Draws of signs: the least p is 1 in 10,000."""
LEVEL = 0.95
_BLOCK = 256
"""Draws at once; bounds memory at this many numbers an image."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The second run's recall less the first one's, on the same images and captions."""

    difference: float
    low: float
    """Of its 95 % interval."""
    high: float
    p: float
    """Two-sided, of the paired test that nothing differs."""


def recall_intervals(
    ranks: RetrievalRanks, image_of: np.ndarray, *, ks: Sequence[int] = KS, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals ``(low, high)`` of every recall, by the keys of `metrics.RetrievalRanks.recalls`.

    Args:
        image_of: int64 ``[n_captions]``, see `metrics.retrieval_ranks`.
        seed: equal seeds give equal intervals.

    Raises:
        ValueError: ranks of other captions than ``image_of`` has, or nothing to draw from.
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
    """What every recall of run b has over run a's, by the keys of `metrics.RetrievalRanks.recalls`.

    Arguments and errors as of `recall_intervals`; both runs are of the same images and captions in the same order.
    """
    a, b = _Counts(ranks_a, image_of, ks), _Counts(ranks_b, image_of, ks)
    if len(a.hits) != len(b.hits):
        raise ValueError(f"run a is of {len(a.hits):,} images, run b of {len(b.hits):,}")
    drawn_a, drawn_b = a.resampled([a.hits, b.hits], resamples, seed)
    low, high = _percentiles(drawn_b - drawn_a)
    p = _sign_flip_p(b.hits - a.hits, sign_flips, seed)
    difference = (b.hits.sum(axis=0) - a.hits.sum(axis=0)) / a.queries.sum(axis=0)
    return {
        name: PairedDifference(difference=float(difference[n]), low=float(low[n]), high=float(high[n]), p=float(p[n]))
        for n, name in enumerate(a.names)
    }


class _Counts:
    """Of each image and recall, hits and queries: what a draw of images adds up. float64 ``[n_images, recalls]``."""

    def __init__(self, ranks: RetrievalRanks, image_of: np.ndarray, ks: Sequence[int]) -> None:
        images = len(ranks.text_retrieval)
        if len(ranks.image_retrieval) != len(image_of) or not len(image_of) or image_of.max() >= images:
            raise ValueError(
                f"{len(ranks.image_retrieval):,} ranks of captions, {len(image_of):,} captions mapped to images, "
                f"{images:,} ranks of images"
            )
        self.names = list(ranks.recalls(ks))
        of_captions = [np.bincount(image_of, weights=ranks.image_retrieval < k, minlength=images) for k in ks]
        of_images = [(ranks.text_retrieval < k).astype(np.float64) for k in ks]
        self.hits = np.stack([*of_captions, *of_images], axis=1)
        captions = np.bincount(image_of, minlength=images).astype(np.float64)
        self.queries = np.stack([captions] * len(ks) + [np.ones(images)] * len(ks), axis=1)

    def resampled(self, hits: Sequence[np.ndarray], resamples: int, seed: int) -> list[np.ndarray]:
        """Recalls of each draw for each array of hits, float64 ``[resamples, recalls]``; all by the same draws."""
        images = len(self.queries)
        generator = np.random.default_rng(seed)
        drawn: list[list[np.ndarray]] = [[] for _ in hits]
        for size in _blocks(resamples):
            times = generator.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float64)
            # A draw of nothing but caption-less images has no caption to find: 0, as in recall itself.
            queries = np.maximum(times @ self.queries, 1)
            for out, found in zip(drawn, hits, strict=True):
                out.append(times @ found / queries)
        return [np.concatenate(parts) for parts in drawn]


def _sign_flip_p(differences: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Of float64 ``[n_images, recalls]`` whole numbers, so that the sums are exact and ties are ties."""
    moved = differences[differences.any(axis=1)]
    observed = np.abs(differences.sum(axis=0))
    generator = np.random.default_rng(seed)
    as_far = np.ones(differences.shape[1])
    for size in _blocks(draws):
        signs = 2.0 * generator.integers(0, 2, (size, len(moved)), dtype=np.int8) - 1
        as_far += (np.abs(signs @ moved) >= observed).sum(axis=0)
    return as_far / (1 + draws)


def _percentiles(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.percentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    return low, high


def _blocks(total: int) -> Iterator[int]:
    for start in range(0, total, _BLOCK):
        yield min(_BLOCK, total - start)
