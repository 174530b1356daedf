"""Unit vectors in clusters, like embeddings, for measuring an index without a corpus."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm2clip_search.base.vectors import unit


@dataclass(frozen=True, kw_only=True)
class SphereMixture:
    """A mixture of Gaussians, projected onto the unit sphere.

    Uniformly distributed vectors would be unfair to inverted lists: in hundreds of dimensions nearly all are orthogonal
    to each other (cosines of 0 +- 1/sqrt(dim)), so the neighbours of a query are hardly nearer than other vectors and
    are spread over all lists. Embeddings of photographs are different, because photographs have subjects.
    """

    dim: int
    clusters: int
    spread: float = 0.7
    """Length of a point's offset from its cluster centre, which has length 1. Two points of a cluster have a cosine of
    about 1 / (1 + spread^2), which is 0.67 for 0.7."""
    directions: int = 24
    """Number of dimensions that a cluster extends in, at most ``dim``. It is small because embeddings of one subject
    vary in a few ways; with all dimensions, the points of a cluster would be equally far from each other, as on the
    whole sphere."""
    seed: int = 0

    @classmethod
    def of(cls, rows: int, dim: int, *, seed: int = 0) -> "SphereMixture":
        """A mixture for ``rows`` vectors, with ``sqrt(rows)`` clusters of about as many vectors each."""
        return cls(dim=dim, clusters=max(1, round(math.sqrt(rows))), seed=seed)

    @cached_property
    def centres(self) -> np.ndarray:
        """Cluster centres, uniformly distributed on the sphere: float32 ``[clusters, dim]``."""
        drawn = np.random.default_rng([self.seed, 0]).standard_normal((self.clusters, self.dim), dtype=np.float32)
        return unit(drawn)

    def draw(self, count: int, *, stream: int) -> np.ndarray:
        """Draw unit vectors, float32 ``[count, dim]``.

        Equal ``seed``, ``stream`` and ``count`` give equal vectors; different streams give different vectors.
        """
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

    def captions(self, count: int, *, stream: int) -> np.ndarray:
        """Queries from beside the vectors, as captions are: a subject, half of another one, and noise of length 0.5.

        Returns:
            float32 ``[count, dim]``, unit length.
        """
        points = self.draw(2 * count, stream=stream)
        noise = np.random.default_rng([self.seed, 3, stream]).standard_normal((count, self.dim), dtype=np.float32)
        return unit(points[:count] + points[count:] / 2 + 0.5 * unit(noise))

    @cached_property
    def _bases(self) -> dict[int, np.ndarray]:
        return {}

    def _basis(self, cluster: int, directions: int) -> np.ndarray:
        """Orthonormal directions of a cluster, float32 ``[directions, dim]``; kept, because they take longest."""
        if (found := self._bases.get(cluster)) is None:
            drawn = np.random.default_rng([self.seed, 2, cluster]).standard_normal((self.dim, directions))
            found = self._bases[cluster] = np.linalg.qr(drawn)[0].T.astype(np.float32)
        return found
