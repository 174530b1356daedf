"""Arithmetic on embeddings that every room needs: unit length, the k best, batches of similar length."""

from collections.abc import Iterator, Sequence

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; a row of zeros stays zero.

    Args:
        vectors: float ``[n, dim]``, any precision.

    Returns:
        C-contiguous float32 ``[n, dim]``.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` highest scores of each row, best first; of equal scores the lower column comes first.

    FAISS and ``np.argpartition`` leave open which of equal scores they keep, so a corpus with copies would be
    ranked differently from run to run.

    Args:
        scores: float ``[n, m]`` without NaN.
        k: results per row; fewer are returned if there are fewer columns.

    Returns:
        Scores and int64 columns, each ``[n, min(k, m)]``.
    """
    rows, columns = scores.shape
    if 0 < k < columns:
        last = np.partition(scores, columns - k, axis=1)[:, columns - k, None]
        chosen = scores >= last
        # Only rows whose k-th score occurs more than once need the count, which takes eight bytes per score.
        tied = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)
        above, equal = scores[tied] > last[tied], scores[tied] == last[tied]
        equal &= np.cumsum(equal, axis=1) <= k - np.count_nonzero(above, axis=1)[:, None]
        chosen[tied] = above | equal
        kept = np.nonzero(chosen)[1].reshape(rows, k)
    else:
        kept = np.broadcast_to(np.arange(min(k, columns)), (rows, min(k, columns)))
    top = np.take_along_axis(scores, kept, 1)
    order = np.argsort(-top, axis=1, kind="stable")
    return np.take_along_axis(top, order, 1), np.take_along_axis(kept, order, 1)


def merge_top(
    scores: np.ndarray, ids: np.ndarray, more_scores: np.ndarray, more_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best of two lists of results per row, as many as the first one has; of equal scores the first list's.

    Args:
        scores, ids: float32 and int64 ``[n, k]``; -inf and -1 where nothing was found yet.
        more_scores, more_ids: the same, ``[n, m]``.
    """
    all_scores = np.concatenate([scores, more_scores], axis=1)
    all_ids = np.concatenate([ids, more_ids], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, : scores.shape[1]]
    return np.take_along_axis(all_scores, order, 1), np.take_along_axis(all_ids, order, 1)


def batches_by_length(lengths: Sequence[int], size: int, *, budget: int | None = None) -> Iterator[np.ndarray]:
    """Rows in batches of at most ``size``, shortest first, so that little of a padded batch is padding.

    Args:
        lengths: of each row, such as its number of tokens.
        budget: largest length of a padded batch, which is its number of rows times the length of its longest; a row
            that is longer is a batch of its own. None is without bound.

    Yields:
        int64 row numbers; every row once.
    """
    given = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(given, kind="stable")
    ordered, start = given[order], 0
    while start < len(order):
        stop = min(start + size, len(order))
        if budget is not None:
            padded = np.arange(1, stop - start + 1) * ordered[start:stop]  # which grows with the row
            stop = start + max(1, int(np.searchsorted(padded, budget, side="right")))
        yield order[start:stop]
        start = stop
