"""Calibrated scores: from the cosines that a caption finds to the probability that a hit is the image it describes.

A cosine says little about that: a caption with no image in the index also has a best hit. What tells right from wrong
is how far a hit stands out from the other good ones. Among ``N`` cosines of similar spread, the best ones of unrelated
images lie closer together the larger ``N`` is: by a factor of ``1 / sqrt(2 ln N)`` if they are distributed normally
(extreme value theory; Embrechts, Klüppelberg and Mikosch, Modelling Extremal Events, 1997, example 3.3.29). So

    logit(probability) = lead * sqrt(2 ln N) * (score - mean of the POOL best scores) + cosine * score + offset

which, for one caption, is a logistic function of the score. Neither slope is negative, so a higher cosine is never less
probable, and the pool is the same for every page of results.
"""

import math
from dataclasses import dataclass

import numpy as np

POOL = 20
"""Best scores that a hit is compared with. With fewer, copies of one picture look like mistakes; with more, the lead in
small indices is no longer that over good hits."""


@dataclass(frozen=True, kw_only=True)
class ScoreProbability:
    """The probability of one caption's hits, as a logistic function of their scores."""

    slope: float
    offset: float

    def __call__(self, score: float) -> float:
        """In [0, 1]."""
        return 0.5 * (1.0 + math.tanh(0.5 * (self.slope * score + self.offset)))  # does not overflow, as exp would


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a model's scores mean; it is part of the model's configuration and does not change an embedding."""

    lead: float
    """Weight of the scaled lead over the pool, at least 0."""
    cosine: float
    """Weight of the score itself, at least 0."""
    offset: float
    fitted_on: tuple[str, ...] = ()
    """Data sets whose captions it was fitted to, each asked once with its image in the gallery and once without."""

    def __post_init__(self) -> None:
        values = (self.lead, self.cosine, self.offset)
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            raise ValueError(f"a calibration of {values}, which must be finite numbers")
        if self.lead < 0 or self.cosine < 0:
            raise ValueError(f"a calibration of {values}, by which a better hit is less probable")

    def for_query(self, scores: np.ndarray, rows: int) -> ScoreProbability:
        """The probability of hits of one caption.

        Args:
            scores: float ``[n]``, the best scores, in descending order; those after `POOL` do not count.
            rows: images that were searched.
        """
        scale = self.lead * lead_scale(rows)
        pool = float(np.mean(scores[:POOL], dtype=np.float64)) if len(scores) else 0.0
        return ScoreProbability(slope=scale + self.cosine, offset=self.offset - scale * pool)


def lead_scale(rows: int) -> float:
    """``sqrt(2 ln rows)``, by which a lead is multiplied."""
    return math.sqrt(2.0 * math.log(max(1, rows)))
