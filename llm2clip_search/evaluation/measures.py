"""Measures that papers report besides recall@k: mean recall, rsum, median rank, mAP@R and R-precision.

* ``mean_recall``: mean of the six recalls at 1, 5 and 10, in [0, 1].
* ``rsum``: their sum in percentage points, at most 600, as papers report it.
* ``*_median_rank``: median rank of the highest-ranked relevant item, counted from 1:
  ``floor(median(rank from 0)) + 1`` as in VSE++ (Faghri et al., arXiv 1707.05612, ``evaluation.py``). An item that is
  not in the gallery ranks after all that are.
* ``*_r_precision``: for a query with R relevant items, the share of relevant items among its R nearest; mean over
  queries.
* ``*_map_at_r``: ``1/R * sum over r <= R of (precision@r if the r-th item is relevant, else 0)``; mean over queries.
  Both are defined by Musgrave et al., arXiv 2003.08505, and used by ECCV Caption (arXiv 2204.03359).

All captions that the data set has of an image are relevant to it. A caption has only one image, so the mAP@R and
R-precision of image retrieval both equal its recall@1. An image without captions counts as 0, as it does in recall.
"""

import numpy as np

from llm2clip_search.evaluation.metrics import KS, RetrievalRanks, nearest_rows


def ranking_measures(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, ranks: RetrievalRanks, *, chunk: int = 1024
) -> dict[str, float]:
    """All measures of this module, by the keys above.

    Args:
        images, captions, image_of, chunk: as for `metrics.retrieval_ranks`.
        ranks: what `metrics.retrieval_ranks` returned for them.
    """
    recalls = list(ranks.recalls(KS).values())
    first = float((ranks.image_retrieval == 0).mean())
    map_at_r, r_precision = caption_precision(images, captions, image_of, chunk=chunk)
    return {
        "mean_recall": float(np.mean(recalls)),
        "rsum": 100 * float(np.sum(recalls)),
        "image_retrieval_median_rank": median_rank(ranks.image_retrieval, len(images)),
        "text_retrieval_median_rank": median_rank(ranks.text_retrieval, len(captions)),
        "image_retrieval_map_at_r": first,
        "text_retrieval_map_at_r": map_at_r,
        "image_retrieval_r_precision": first,
        "text_retrieval_r_precision": r_precision,
    }


def median_rank(ranks: np.ndarray, gallery: int) -> float:
    """Median rank counted from 1.

    Args:
        ranks: int64 ``[q]``, counted from 0; `metrics.NEVER` is taken as rank ``gallery``.
        gallery: number of items in the gallery.
    """
    return float(np.floor(np.median(np.minimum(ranks, gallery))) + 1)


def caption_precision(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, chunk: int = 1024
) -> tuple[float, float]:
    """mAP@R and R-precision of text retrieval; arguments as for `metrics.retrieval_ranks`."""
    relevant = np.bincount(image_of, minlength=len(images))
    top = nearest_rows(images, captions, int(relevant.max(initial=0)), chunk=chunk)
    return precision_at_r(image_of[top] == np.arange(len(images))[:, None], relevant)


def precision_at_r(hits: np.ndarray, relevant: np.ndarray) -> tuple[float, float]:
    """Mean mAP@R and R-precision.

    Args:
        hits: bool ``[q, k]``, whether a query's n-th nearest item is relevant; k is the largest R.
        relevant: int64 ``[q]``, R of each query; a query without relevant items counts as 0.
    """
    counted = hits & (np.arange(hits.shape[1]) < relevant[:, None])
    precision = np.cumsum(counted, axis=1) / np.arange(1, hits.shape[1] + 1)
    total = np.maximum(relevant, 1)
    return float(((precision * counted).sum(axis=1) / total).mean()), float((counted.sum(axis=1) / total).mean())
