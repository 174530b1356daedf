"""Recall@k as CLIP_benchmark defines it, in chunks, ties to the lower index.

With ``S[t, i]`` the score of caption t and image i, and ``g[t]`` the image of caption t:

* ``image_retrieval_recall@k`` (text query, t2i): share of captions whose image is among the k best
  of row t.
* ``text_retrieval_recall@k`` (image query, i2t): share of images of which any caption is among the
  k best of column i; an image without captions is a miss and counts.

Source: clip_benchmark/metrics/zeroshot_retrieval.py, version 1.6.2. Values are
``float32(hits) / float32(n)``, as its mean over float32 hits gives.
"""

from collections.abc import Sequence

import numpy as np

NEVER = np.iinfo(np.int64).max
"""The rank of what is not in the gallery: no k reaches it."""


def ranks_of_best(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_of: np.ndarray,
    gallery_of: np.ndarray,
    *,
    chunk: int = 1024,
) -> np.ndarray:
    """Rank, from 0, of each query's best-placed relevant gallery item.

    A pair is relevant when the two share a group: ``query_of`` int64 ``[q]``, ``gallery_of`` int64 ``[g]``.
    Equal scores rank by lower gallery index. Queries with nothing relevant get `NEVER`.

    Args:
        queries: float32 ``[q, dim]``.
        gallery: float32 ``[g, dim]``.
        chunk: queries a matrix product; bounds memory at ``chunk * g`` scores.
    """
    out = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        scores = queries[rows] @ gallery.T
        relevant = query_of[rows, None] == gallery_of[None, :]
        best = np.where(relevant, scores, -np.inf)
        place = best.argmax(axis=1)  # the first of equals, which is the best placed one
        top = best[np.arange(len(best)), place][:, None]
        before = (scores > top) | ((scores == top) & (np.arange(len(gallery)) < place[:, None]))
        out[rows] = np.where(relevant.any(axis=1), before.sum(axis=1), NEVER)
    return out


def retrieval_recalls(
    images: np.ndarray,
    captions: np.ndarray,
    image_of: np.ndarray,
    *,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, float]:
    """``image_retrieval_recall@k`` and ``text_retrieval_recall@k``, keys as CLIP_benchmark writes them.

    Args:
        images: float32 ``[n_images, dim]``, L2-normalised.
        captions: float32 ``[n_captions, dim]``, L2-normalised.
        image_of: int64 ``[n_captions]``, the row in ``images`` that each caption describes.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if len(captions) != len(image_of) or (len(image_of) and not 0 <= image_of.min() <= image_of.max() < len(images)):
        raise ValueError(f"{len(captions)} captions, {len(image_of)} of them mapped to {len(images)} images")
    rows = np.arange(len(images))
    ranks = {
        "image_retrieval": ranks_of_best(captions, images, image_of, rows, chunk=chunk),
        "text_retrieval": ranks_of_best(images, captions, rows, image_of, chunk=chunk),
    }
    return {
        f"{name}_recall@{k}": float(np.float32((rank < k).sum()) / np.float32(len(rank)))
        for name, rank in ranks.items()
        for k in ks
    }
