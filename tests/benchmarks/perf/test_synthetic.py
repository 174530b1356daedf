"""Synthetic vectors: unit length, clusters, and reproducibility."""

import numpy as np
import pytest

from llm2clip_search.benchmarks.perf.synthetic import SphereMixture


@pytest.mark.parametrize("dim", [2, 16, 256])
def test_vectors_are_unit_and_a_function_of_the_seed(dim: int) -> None:
    mixture = SphereMixture.of(400, dim, seed=3)
    drawn = mixture.draw(400, stream=1)
    assert drawn.shape == (400, dim)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(drawn.astype(np.float64), axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(drawn, SphereMixture.of(400, dim, seed=3).draw(400, stream=1))
    for other in (mixture.draw(400, stream=2), SphereMixture.of(400, dim, seed=4).draw(400, stream=1)):
        assert not np.isclose(drawn, other).all(axis=1).any()


def test_vectors_and_held_out_queries_share_clusters() -> None:
    """Neighbours are near and others orthogonal; for uniformly distributed vectors, neighbours are hardly nearer."""
    mixture = SphereMixture.of(2500, 256)
    gallery, queries = mixture.draw(2500, stream=1), mixture.draw(200, stream=0)
    even = np.random.default_rng(0).standard_normal((2700, 256), dtype=np.float32)
    even /= np.linalg.norm(even, axis=1, keepdims=True)
    clustered, scattered = queries @ gallery.T, even[:200] @ even[200:].T
    assert scattered.max(axis=1).mean() < 0.3
    assert clustered.max(axis=1).mean() > 0.7
    assert abs(clustered.mean()) < 0.03
    # Of two points of a cluster, as the documentation says: 1 / (1 + 0.7^2) = 0.67.
    nearest = mixture.centres[(gallery @ mixture.centres.T).argmax(axis=1)]
    own = (gallery * nearest).sum(axis=1)
    assert np.median(own) == pytest.approx(1 / np.sqrt(1 + 0.7**2), abs=0.03)
