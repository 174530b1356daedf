"""The evaluation benchmark: recalls expected by chance, and that deviations are detected."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from llm2clip_search.benchmarks.perf.evaluation import chance_recalls, evaluate_random
from llm2clip_search.errors import CorpusError


def test_chance_is_counted() -> None:
    """Seven captions of three images; the reference enumerates all choices of k captions."""
    image_of = np.array([0, 0, 0, 0, 1, 1, 2])
    found = chance_recalls(3, np.bincount(image_of))
    for k in (1, 5):
        choices = list(combinations(image_of.tolist(), k))
        expected = np.mean([image in choice for choice in choices for image in range(3)])
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(expected)
    assert found["text_retrieval_recall@10"] == found["image_retrieval_recall@5"] == 1
    assert found["image_retrieval_recall@1"] == pytest.approx(1 / 3)


def test_random_vectors_are_at_chance_and_others_are_not() -> None:
    done = evaluate_random(images=200, captions=1003, dim=32)
    assert done.at_chance
    assert done.metrics.keys() == done.chance.keys() == done.intervals.keys()
    assert 0 < done.seconds < 600
    better = replace(done, metrics={**done.metrics, "image_retrieval_recall@1": 0.2})
    assert not better.at_chance
    assert better.to_dict()["at_chance"] is False


def test_fewer_captions_than_images_are_refused() -> None:
    with pytest.raises(CorpusError, match="4 captions are fewer than 5 images"):
        evaluate_random(images=5, captions=4, dim=8)
