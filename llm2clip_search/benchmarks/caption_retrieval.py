"""Caption retrieval accuracy: do two people's captions of one image find each other?

One definition, because the published figures stand on two scales: of each image with at least two
captions, the first is the query; the gallery is the second to fifth caption of every such image; a hit
is a nearest gallery caption that describes the query's image. Ties go to the lower index.
"""

import numpy as np

from llm2clip_search.benchmarks.metrics import ranks_of_best

GALLERY = 4
"""Captions of an image in the gallery, at most."""


def caption_retrieval(vectors: np.ndarray, image_of: np.ndarray) -> float:
    """Top-1 accuracy in [0, 1].

    Args:
        vectors: float32 ``[n_captions, dim]``, unit; captions of an image in their order.
        image_of: int64 ``[n_captions]``.

    Raises:
        ValueError: arrays of two lengths, or fewer than two images with two captions: nothing could go wrong.
    """
    if len(vectors) != len(image_of):
        raise ValueError(f"{len(vectors)} captions, {len(image_of)} of them mapped to images")
    queries, gallery = queries_and_gallery(image_of)
    if len(queries) < 2:
        raise ValueError(f"{len(queries)} images have two captions; caption retrieval needs two such images")
    ranks = ranks_of_best(vectors[queries], vectors[gallery], image_of[queries], image_of[gallery])
    return float((ranks == 0).mean())


def queries_and_gallery(image_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the captions that ask and of those that are searched, int64 each, by image.

    Images with a single caption are in neither.
    """
    order = np.argsort(image_of, kind="stable")
    _, first, count = np.unique(image_of[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, count)
    paired = np.repeat(count >= 2, count)
    return order[paired & (place == 0)], order[paired & (place >= 1) & (place <= GALLERY)]
