"""What papers print beside recall@k: mean recall, rsum, median rank, mAP@R and R-precision.

* ``mean_recall``: mean of the six recalls at 1, 5 and 10, in [0, 1].
* ``rsum``: their sum in percent points, at most 600, as papers print it.
* ``*_median_rank``: the best-placed relevant item's rank counted from 1, ``floor(median(rank from 0)) + 1`` as in
  VSE++ (Faghri et al., arXiv 1707.05612, ``evaluation.py``). What is not in the gallery ranks behind all of it.
* ``*_r_precision``: of a query with R relevant items, the share of relevant ones among its R nearest; the mean over
  queries. ``*_map_at_r``: ``1/R * sum over r <= R of precision@r where the r-th is relevant, else 0``; the mean
  over queries. Source: Musgrave et al., arXiv 2003.08505, as ECCV Caption (arXiv 2204.03359) has them.

Relevant are the set's own captions of an image, all of them. A caption has one image, so that image retrieval's
mAP@R and R-precision both are its recall@1. An image without captions counts 0, as it does in recall.
"""

import numpy as np

from llm2clip_search.evaluation.metrics import KS, RetrievalRanks, nearest_rows


def ranking_measures(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, ranks: RetrievalRanks, *, chunk: int = 1024
) -> dict[str, float]:
    """All of the above; arguments as of `metrics.retrieval_ranks`, and the ranks that it gave for them."""
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
    """Counted from 1; ``ranks`` int64 from 0, `metrics.NEVER` taken as ``gallery``."""
    return float(np.floor(np.median(np.minimum(ranks, gallery))) + 1)


def caption_precision(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, chunk: int = 1024
) -> tuple[float, float]:
    """mAP@R and R-precision of text retrieval; arguments as of `metrics.retrieval_ranks`."""
    relevant = np.bincount(image_of, minlength=len(images))
    top = nearest_rows(images, captions, int(relevant.max(initial=0)), chunk=chunk)
    return precision_at_r(image_of[top] == np.arange(len(images))[:, None], relevant)


def precision_at_r(hits: np.ndarray, relevant: np.ndarray) -> tuple[float, float]:
    """Mean mAP@R and R-precision.

    Args:
        hits: bool ``[q, k]``, whether a query's n-th nearest is relevant; k is the greatest R.
        relevant: int64 ``[q]``, R; a query of which nothing is relevant counts 0.
    """
    counted = hits & (np.arange(hits.shape[1]) < relevant[:, None])
    precision = np.cumsum(counted, axis=1) / np.arange(1, hits.shape[1] + 1)
    total = np.maximum(relevant, 1)
    return float(((precision * counted).sum(axis=1) / total).mean()), float((counted.sum(axis=1) / total).mean())
