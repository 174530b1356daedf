"""Near-duplicates: copies of an image at another size or quality, recognised by how small versions of them look.

Pixels were chosen by trial. Of 150 validation images of RSICD that were saved again at three quarters of their size
with JPEG quality 60, a cosine of 0.98 of 16 x 16 pixels finds all, and takes 3 of the 500 training images for copies
and none of 1,000 of Flickr8k. Embeddings of ``nano`` at 0.95 find 121 and take 20 of the 500, because images with the
same meaning are close. Crops are not found.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from llm2clip_search.base.vectors import top_k
from llm2clip_search.encoders.config import PreprocessConfig

SIDE = 16
"""Width and height of the compared versions in pixels."""
THUMBNAIL = PreprocessConfig(height=2 * SIDE, width=2 * SIDE, resize="squash")
"""How images are resized for `small_version`."""
_CHUNK = 1024
"""Rows of one matrix product."""


def small_version(pixels: np.ndarray) -> np.ndarray:
    """Means of squares of an image: uint8 ``[n * SIDE, n * SIDE, 3]`` to uint8 ``[SIDE * SIDE * 3]``."""
    times = len(pixels) // SIDE
    means: np.ndarray = pixels.reshape(SIDE, times, SIDE, times, 3).mean(axis=(1, 3))
    small: np.ndarray = np.rint(means).astype(np.uint8).reshape(-1)
    return small


def near_duplicates(
    images: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], threshold: float
) -> Iterator[tuple[str, str, float]]:
    """Images that look like one of others.

    Args:
        images: by name, as `small_version` returns them; ``others`` likewise.
        threshold: cosine of pixels around their mean, from which two images are near-duplicates.

    Yields:
        The name of an image, that of the most similar one among the others, and their cosine.
    """
    names, candidates = list(images), list(others)
    if not candidates:
        return
    gallery = centred(list(others.values()))
    for start in range(0, len(names), _CHUNK):
        part = names[start : start + _CHUNK]
        scores, nearest = top_k(centred([images[name] for name in part]) @ gallery.T, 1)
        for row in np.flatnonzero(scores[:, 0] >= threshold).tolist():
            yield part[row], candidates[int(nearest[row, 0])], float(scores[row, 0])


def centred(versions: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors whose cosines compare small versions: float32 ``[n, SIDE * SIDE * 3]``, L2-normalised.

    Images of one colour are like no other.
    """
    vectors = np.stack(versions).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return unit
