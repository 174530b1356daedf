"""Measures other than recall, compared with definitions applied query by query."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.evaluation.measures import median_rank, ranking_measures
from llm2clip_search.evaluation.metrics import NEVER, retrieval_ranks


def by_definition(scores: np.ndarray, positives: list[set[int]]) -> tuple[float, float]:
    """mAP@R and R-precision as ECCV Caption defines them, one query at a time."""
    maps, precisions = [], []
    for row, wanted in zip(scores, positives, strict=True):
        nearest = sorted(range(len(row)), key=lambda item: (-row[item], item))[: len(wanted)]
        if not wanted:
            maps.append(0.0)
            precisions.append(0.0)
            continue
        at = [
            len(wanted & set(nearest[:r])) / r if nearest[r - 1] in wanted else 0.0 for r in range(1, len(wanted) + 1)
        ]
        maps.append(sum(at) / len(wanted))
        precisions.append(len(wanted & set(nearest)) / len(wanted))
    return float(np.mean(maps)), float(np.mean(precisions))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 9),
    captions=st.integers(1, 30),
    chunk=st.sampled_from([1, 7, 1000]),
)
def test_precision_is_the_definitions(seed: int, images: int, captions: int, chunk: int) -> None:
    """Images with any number of captions, including none, and scores with ties."""
    generator = np.random.default_rng(seed)
    image_of = generator.integers(0, images, captions)
    scores = generator.integers(0, 5, (captions, images)).astype(np.float32)
    eye = np.eye(images, dtype=np.float32)
    found = ranking_measures(eye, scores, image_of, retrieval_ranks(eye, scores, image_of), chunk=chunk)
    of_images = by_definition(scores.T, [set(np.flatnonzero(image_of == image).tolist()) for image in range(images)])
    of_captions = by_definition(scores, [{int(image)} for image in image_of])
    for way, (map_at_r, r_precision) in (("text_retrieval", of_images), ("image_retrieval", of_captions)):
        assert found[f"{way}_map_at_r"] == pytest.approx(map_at_r)
        assert found[f"{way}_r_precision"] == pytest.approx(r_precision)


def test_sums_of_recalls() -> None:
    """Two of three captions have their image at rank 1, the third at rank 4; images 3 to 5 have no captions."""
    eye = np.eye(6, dtype=np.float32)
    captions = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [5, 4, 2, 3, 1, 0]], dtype=np.float32)
    ranks = retrieval_ranks(eye, captions, np.array([0, 1, 2]))
    assert ranks.image_retrieval.tolist() == [0, 0, 3]
    assert ranks.text_retrieval.tolist() == [1, 1, 0, NEVER, NEVER, NEVER]
    found = ranking_measures(eye, captions, np.array([0, 1, 2]), ranks)
    assert found["rsum"] == pytest.approx(100 * (2 / 3 + 1 + 1 + 1 / 6 + 0.5 + 0.5), abs=1e-4)
    assert found["mean_recall"] == pytest.approx(found["rsum"] / 600)
    assert found["image_retrieval_median_rank"] == 1
    # Ranks from 0 are 0, 1, 1 and three times behind all three captions: the median lies between 1 and 3.
    assert found["text_retrieval_median_rank"] == 3


@pytest.mark.parametrize(("ranks", "expected"), [([0], 1), ([0, 1], 1), ([4, 0, 9], 5), ([NEVER, NEVER, 0], 101)])
def test_median_rank_counts_from_one(ranks: list[int], expected: int) -> None:
    assert median_rank(np.array(ranks), 100) == expected


def test_perfect_retrieval() -> None:
    eye = np.eye(4, dtype=np.float32)
    image_of = np.repeat(np.arange(4), 3)
    found = ranking_measures(eye, eye[image_of], image_of, retrieval_ranks(eye, eye[image_of], image_of))
    assert found.pop("rsum") == pytest.approx(600)
    assert set(found.values()) == {1.0}
