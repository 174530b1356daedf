"""How well a model tells an image from those that are described most similarly.

The hard negatives of an image are the images whose captions share most with its own, by a measure that does not depend
on the model, so that models can be compared. Each caption ranks its image among these.
"""

import numpy as np

from llm2clip_search.base.vectors import top_k

NEGATIVES = 10
"""Hard negatives of each image."""


def hard_negatives(documents: np.ndarray, *, count: int = NEGATIVES, chunk: int = 1024) -> np.ndarray:
    """The rows that are most similar to each, without itself.

    Args:
        documents: float32 ``[n_images, width]``, L2-normalised: what is said of each image.

    Returns:
        int64 ``[n_images, min(count, n_images - 1)]``, most similar first; equal ones by row.
    """
    out = np.empty((len(documents), min(count, len(documents) - 1)), dtype=np.int64)
    for start in range(0, len(documents), chunk):
        scores = documents[start : start + chunk] @ documents.T
        np.fill_diagonal(scores[:, start:], -np.inf)
        out[start : start + chunk] = top_k(scores, out.shape[1])[1]
    return out


def ranks_among(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, negatives: np.ndarray, *, chunk: int = 512
) -> np.ndarray:
    """Rank of each caption's image among its hard negatives, from 0; a negative with an equal score ranks higher.

    Args:
        images: float32 ``[n_images, dim]``, L2-normalised.
        captions: float32 ``[n_captions, dim]``, L2-normalised.
        image_of: int64 ``[n_captions]``, the row in ``images`` that each caption describes.
        negatives: int64 ``[n_images, count]``, as of `hard_negatives`.

    Returns:
        int64 ``[n_captions]``.
    """
    out = np.empty(len(captions), dtype=np.int64)
    for start in range(0, len(captions), chunk):
        block, own = captions[start : start + chunk], image_of[start : start + chunk]
        right = np.einsum("nd,nd->n", block, images[own])
        others = np.einsum("nd,nkd->nk", block, images[negatives[own]])
        out[start : start + chunk] = (others >= right[:, None]).sum(axis=1)
    return out
