"""Whether a score tells that a caption's image is not there.

Each caption is asked twice: with its image in the gallery, and with its image removed, where the best hit is wrong
whatever it is. A statistic of the best hit is judged by its AUC (area under the ROC curve): the probability that it is
higher for a right best hit than for the best hit of a gallery without the image. It is 0.5 for a statistic that tells
nothing. Values below 1 are expected even of a perfect model, since other images of a gallery may fit a caption as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm2clip_search.base.vectors import top_k
from llm2clip_search.encoders.calibration import POOL, Calibration, lead_scale
from llm2clip_search.evaluation.metrics import cosine_scores

RIDGE = 1e-4
"""Penalty on squared slopes per caption, so that they are finite even where hits separate perfectly."""
_STEPS = 100
BINS = 10
"""Groups of equally many best hits whose mean probability is compared with how many are right."""


@dataclass(frozen=True, kw_only=True)
class BestHits:
    """The best hit of each caption, and what a query knows about it; arrays of ``[n_captions]``."""

    score: np.ndarray
    """Cosine, float64."""
    pool: np.ndarray
    """Mean of the `POOL` best cosines, float64."""
    z_score: np.ndarray
    """The cosine in standard deviations above the mean of all of the gallery, which a query by an index cannot know."""
    lead_10: np.ndarray
    """Lead over the 10th hit, float64."""
    hit: np.ndarray
    """Row of the hit in the gallery, int64."""
    is_right: np.ndarray
    """Whether the caption describes the hit."""
    rows: int
    """Images in the gallery."""

    @property
    def lead(self) -> np.ndarray:
        """Lead over the mean of the pool, scaled for the size of the gallery."""
        scaled: np.ndarray = lead_scale(self.rows) * (self.score - self.pool)
        return scaled

    def probability(self, calibration: Calibration) -> np.ndarray:
        """As `Calibration.for_query` gives it to the best hit: float64 ``[n_captions]``."""
        logit = calibration.lead * self.lead + calibration.cosine * self.score + calibration.offset
        probable: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * logit))
        return probable


def best_hits(
    images: np.ndarray, captions: np.ndarray, image_of: np.ndarray, *, without_own: bool = False, chunk: int = 1024
) -> BestHits:
    """The best hit of each caption.

    Args:
        images: float32 ``[n_images, dim]``, L2-normalised.
        captions: float32 ``[n_captions, dim]``, L2-normalised.
        image_of: int64 ``[n_captions]``, the row in ``images`` that each caption describes.
        without_own: remove each caption's image from the gallery.
        chunk: captions per matrix product; bounds memory at ``chunk * n_images`` scores.

    Raises:
        ValueError: the gallery has fewer than two images, so that one without the caption's own is empty.
    """
    rows = len(images) - without_own
    if len(images) < 2:
        raise ValueError(f"a gallery of {len(images)} images; two are needed to remove one")
    parts = []
    for start in range(0, len(captions), chunk):
        scores = cosine_scores(captions[start : start + chunk], images).astype(np.float64)
        own = image_of[start : start + chunk]
        total, squares = scores.sum(axis=1), np.square(scores).sum(axis=1)
        if without_own:
            removed = scores[np.arange(len(own)), own]
            total, squares = total - removed, squares - np.square(removed)
            scores[np.arange(len(own)), own] = -np.inf
        top, columns = top_k(scores, min(POOL, rows))
        deviation = np.sqrt(np.maximum(squares / rows - np.square(total / rows), 1e-12))
        z_score = (top[:, 0] - total / rows) / deviation
        lead_10 = top[:, 0] - top[:, min(10, rows) - 1]
        parts.append((top[:, 0], top.mean(axis=1), z_score, lead_10, columns[:, 0]))
    score, pool, z_score, lead_10, hit = (np.concatenate(part) for part in zip(*parts, strict=True))
    return BestHits(
        score=score, pool=pool, z_score=z_score, lead_10=lead_10, hit=hit, is_right=hit == image_of, rows=rows
    )


def auc(positives: np.ndarray, negatives: np.ndarray) -> float | None:
    """Probability that one of ``positives`` is higher than one of ``negatives``; equal values count half.

    It is the Mann-Whitney statistic divided by the number of pairs. None if there are no positives or no negatives.
    """
    if not len(positives) or not len(negatives):
        return None
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    up_to = np.searchsorted(ordered, positives, side="right")
    return float((below + up_to).sum() / (2 * len(positives) * len(negatives)))


def calibration_error(probability: np.ndarray, is_right: np.ndarray) -> float:
    """Expected calibration error: the mean distance between probability and share of right hits, over `BINS` groups.

    Guo et al., On Calibration of Modern Neural Networks (ICML 2017), with groups of equal size.
    """
    groups = np.array_split(np.argsort(probability, kind="stable"), BINS)
    gaps = [abs(probability[group].mean() - is_right[group].mean()) * len(group) for group in groups if len(group)]
    return float(sum(gaps) / max(1, len(probability)))


def fit_calibration(hits: Sequence[BestHits], *, fitted_on: Sequence[str] = ()) -> Calibration:
    """Fit a calibration by maximum likelihood; each of ``hits`` has the same weight, however many captions it has.

    A slope that would be negative is 0, so that a better hit is never less probable.

    Raises:
        ValueError: all hits are right or all are wrong.
    """
    right = np.concatenate([each.is_right for each in hits]).astype(np.float64)
    if right.min() == right.max():
        raise ValueError(f"all {len(right)} best hits are {'right' if right[0] else 'wrong'}, so nothing can be fitted")
    features = np.stack(
        [
            np.concatenate([each.lead for each in hits]),
            np.concatenate([each.score for each in hits]),
            np.ones(len(right)),
        ],
        axis=1,
    )
    weights = np.concatenate([np.full(len(each.score), len(right) / len(hits) / len(each.score)) for each in hits])
    used = [0, 1]
    while True:
        found = _logistic(features[:, [*used, 2]], right, weights)
        slopes = dict(zip(used, found[:-1].tolist(), strict=True))
        kept = [column for column, slope in slopes.items() if slope >= 0]
        if len(kept) == len(used):
            break
        used = kept
    return Calibration(
        lead=slopes.get(0, 0.0), cosine=slopes.get(1, 0.0), offset=float(found[-1]), fitted_on=tuple(fitted_on)
    )


def _logistic(features: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients float64 ``[columns]`` of a logistic regression by Newton's method; the last column is the offset."""
    penalty = RIDGE * weights.sum() * np.diag([*np.ones(features.shape[1] - 1), 0.0])
    found = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        probable = 0.5 * (1.0 + np.tanh(0.5 * (features @ found)))
        gradient = features.T @ (weights * (probable - right)) + penalty @ found
        spread = weights * np.maximum(probable * (1.0 - probable), 1e-12)
        step = np.linalg.solve((features * spread[:, None]).T @ features + penalty, gradient)
        found -= step
        if np.abs(step).max() < 1e-9:
            break
    return found
