"""Unit vectors that lie as embeddings do: in clusters on the sphere, for measuring an index without a corpus."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm2clip_search.base.vectors import unit


@dataclass(frozen=True, kw_only=True)
class SphereMixture:
    """A mixture of Gaussians, drawn from and laid on the unit sphere.

    Vectors drawn evenly on the sphere would be unfair to inverted lists: in hundreds of dimensions all of them
    are nearly at right angles to each other (cosines of 0 +- 1/sqrt(dim)), so that a query's neighbours are
    hardly nearer than the rest and are strewn over all lists. Embeddings of photographs are not like that, as
    photographs have subjects; queries drawn from the same mixture, but not among the vectors, stand for captions.
    """

    dim: int
    clusters: int
    spread: float = 0.7
    """Length of a point's offset from its centre, whose own length is 1: two points of one cluster have a cosine
    of about 1 / (1 + spread^2), which is 0.67 for 0.7."""
    directions: int = 24
    """In which a cluster extends, of ``dim`` at most. A few, as embeddings of one subject vary in a few ways; with
    all of them, a cluster's points would be equally far from each other, which is the even sphere again."""
    seed: int = 0

    @classmethod
    def of(cls, rows: int, dim: int, *, seed: int = 0) -> "SphereMixture":
        """The mixture for so many vectors: with the square root of their number as clusters, and as rows in each."""
        return cls(dim=dim, clusters=max(1, round(math.sqrt(rows))), seed=seed)

    @cached_property
    def centres(self) -> np.ndarray:
        """float32 ``[clusters, dim]``, unit, drawn evenly on the sphere."""
        drawn = np.random.default_rng([self.seed, 0]).standard_normal((self.clusters, self.dim), dtype=np.float32)
        return unit(drawn)

    def draw(self, count: int, *, stream: int) -> np.ndarray:
        """float32 ``[count, dim]``, unit: equal for equal seed, ``stream`` and ``count``, unlike for other streams."""
        generator = np.random.default_rng([self.seed, 1, stream])
        cluster = generator.integers(0, self.clusters, count)
        points = self.centres[cluster]
        directions = min(self.directions, self.dim)
        offsets = generator.standard_normal((count, directions), dtype=np.float32)
        offsets *= np.float32(self.spread / math.sqrt(directions))
        for number in np.unique(cluster):
            rows = cluster == number
            points[rows] += offsets[rows] @ self._basis(int(number), directions)
        return unit(points)

    def _basis(self, cluster: int, directions: int) -> np.ndarray:
        """float32 ``[directions, dim]``, orthonormal: a cluster's own directions."""
        drawn = np.random.default_rng([self.seed, 2, cluster]).standard_normal((self.dim, directions))
        return np.linalg.qr(drawn)[0].T.astype(np.float32)
