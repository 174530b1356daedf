"""Hard negatives: images that a model takes for each other are drawn into one batch.

A batch drawn at random holds few images that are hard to distinguish, so the loss learns little from most pairs.
NegCLIP (Yuksekgonul et al., arXiv 2210.01936, section 4) adds to a batch one of the nearest images of each of its
images. Here two images are near if the model gives high scores to each of them with the captions of the other, because
these are the pairs that the contrastive loss compares.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from llm2clip_search.base.vectors import top_k
from llm2clip_search.training.data.near_duplicates import centred
from llm2clip_search.training.runtime.allowed_values import require_values

NONE = -1
"""Fills the rows of images that have fewer neighbours."""
_CHUNK = 1024
"""Rows of one matrix product."""


@dataclass(frozen=True, kw_only=True)
class HardNegatives:
    """Batches with images that the model confuses, as it is before the first step."""

    share: float = 0.5
    """Share of a batch that are hard negatives of its other images."""
    nearest: int = 10
    """Number of images that the hard negatives of an image are drawn from: those whose captions the model scores
    highest with it, and it with theirs."""
    near_duplicates: float = 0.98
    """Cosine of small versions of two images, from which they count as copies: a copy is not a negative. Images with a
    caption in common are not negatives either."""

    def __post_init__(self) -> None:
        require_values(
            self,
            {
                "share": (0.0 < self.share < 1.0, "between 0 and 1"),
                "nearest": (self.nearest >= 1, "at least 1"),
                "near_duplicates": (0.0 < self.near_duplicates <= 1.0, "between 0 and 1"),
            },
        )


def neighbours_of(
    images: np.ndarray,
    captions: np.ndarray,
    *,
    texts: Sequence[Set[int]],
    versions: Sequence[np.ndarray],
    config: HardNegatives,
) -> np.ndarray:
    """The images that hard negatives of each image are drawn from.

    Args:
        images: unit vectors, float32 ``[n, dim]``.
        captions: for each image, the unit mean of the vectors of its captions, float32 ``[n, dim]``.
        texts: for each image, numbers of its captions, which are equal for equal captions.
        versions: for each image, what `near_duplicates.small_version` returns.

    Returns:
        int64 ``[n, config.nearest]``, nearest first; `NONE` after the last one of each row. Of the
        ``2 * config.nearest`` nearest images, copies and images with a common caption are passed over.
    """
    count, nearest = len(images), config.nearest
    found = np.full((count, nearest), NONE, dtype=np.int64)
    small = centred(versions)
    # The sum of image i with the captions of j, and of image j with those of i, is one product.
    rows, columns = np.hstack([images, captions]), np.hstack([captions, images])
    for start in range(0, count, _CHUNK):
        scores = rows[start : start + _CHUNK] @ columns.T
        own = np.arange(start, start + len(scores))
        scores[own - start, own] = -np.inf
        _, candidates = top_k(scores, min(2 * nearest, count - 1))
        for image, others in zip(own.tolist(), candidates, strict=True):
            copies = small[others] @ small[image] >= config.near_duplicates
            shared = np.array([not texts[image].isdisjoint(texts[other]) for other in others.tolist()])
            kept = others[~(copies | shared)][:nearest]
            found[image, : len(kept)] = kept
    return found
