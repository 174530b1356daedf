"""Intervals and the paired test compared with naive loops and full enumeration."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.evaluation.metrics import NEVER, RetrievalRanks
from llm2clip_search.evaluation.statistics import paired_differences, recall_intervals


def drawn(seed: int, images: int, per_image: int = 5, scale: float = 4.0) -> tuple[RetrievalRanks, np.ndarray]:
    """Ranks that are correlated within an image, like those of real captions."""
    generator = np.random.default_rng(seed)
    image_of = np.repeat(np.arange(images), per_image)
    hardness = generator.exponential(scale, images)
    return (
        RetrievalRanks(
            image_retrieval=generator.poisson(hardness[image_of]).astype(np.int64),
            text_retrieval=generator.poisson(hardness / 2).astype(np.int64),
        ),
        image_of,
    )


def naive(ranks: RetrievalRanks, image_of: np.ndarray, k: int, resamples: int) -> np.ndarray:
    """95 % interval of ``image_retrieval_recall@k``; each resample gathers the captions image by image."""
    generator = np.random.default_rng(99)
    images = len(ranks.text_retrieval)
    captions = [np.flatnonzero(image_of == image) for image in range(images)]
    values = []
    for _ in range(resamples):
        rows = np.concatenate([captions[image] for image in generator.integers(0, images, images)])
        values.append((ranks.image_retrieval[rows] < k).mean())
    bounds: np.ndarray = np.percentile(values, [2.5, 97.5])
    return bounds


def test_intervals_are_those_of_a_naive_bootstrap_over_images() -> None:
    ranks, image_of = drawn(0, 80)
    keep = np.random.default_rng(1).random(len(image_of)) < 0.7  # images of differently many captions
    ranks = RetrievalRanks(image_retrieval=ranks.image_retrieval[keep], text_retrieval=ranks.text_retrieval)
    found = recall_intervals(ranks, image_of[keep], resamples=3000)
    expected = naive(ranks, image_of[keep], 5, 3000)
    np.testing.assert_allclose(found["image_retrieval_recall@5"], expected, atol=0.012)


def test_captions_of_an_image_do_not_count_as_independent() -> None:
    """Five identical captions per image carry no more information than one."""
    once, one_each = drawn(2, 100, per_image=1)
    five = RetrievalRanks(image_retrieval=np.repeat(once.image_retrieval, 5), text_retrieval=once.text_retrieval)
    found, expected = recall_intervals(five, np.repeat(one_each, 5)), recall_intervals(once, one_each)
    for key, bounds in expected.items():
        assert found[key] == pytest.approx(bounds)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 60))
def test_an_interval_holds_its_recall(seed: int, images: int) -> None:
    ranks, image_of = drawn(seed, images)
    found = recall_intervals(ranks, image_of, resamples=300)
    for key, recall in ranks.recalls().items():
        low, high = found[key]
        assert 0 <= low <= recall + 1e-6
        assert recall - 1e-6 <= high <= 1


def test_an_interval_shrinks_with_images_and_depends_on_the_seed_alone() -> None:
    ranks, image_of = drawn(3, 50)
    many = RetrievalRanks(
        image_retrieval=np.tile(ranks.image_retrieval, 16), text_retrieval=np.tile(ranks.text_retrieval, 16)
    )
    tiled = np.concatenate([image_of + 50 * copy for copy in range(16)])
    few_found, many_found = recall_intervals(ranks, image_of), recall_intervals(many, tiled)
    for key in ("image_retrieval_recall@1", "text_retrieval_recall@1"):
        ratio = np.diff(many_found[key])[0] / np.diff(few_found[key])[0]
        assert ratio == pytest.approx(1 / 4, rel=0.2)  # sixteen times the images, a quarter of the width
    assert recall_intervals(ranks, image_of) == few_found
    assert recall_intervals(ranks, image_of, seed=1) != few_found


def test_certain_recalls_have_no_width() -> None:
    image_of = np.arange(6)
    never = RetrievalRanks(image_retrieval=np.zeros(6, dtype=np.int64), text_retrieval=np.full(6, NEVER))
    found = recall_intervals(never, image_of)
    assert found["image_retrieval_recall@1"] == (1.0, 1.0)
    assert found["text_retrieval_recall@10"] == (0.0, 0.0)


def test_images_without_captions_are_drawn_too() -> None:
    """One of ten images has a caption; a resample without that image has no caption to find."""
    ranks = RetrievalRanks(image_retrieval=np.array([0]), text_retrieval=np.array([0] + [NEVER] * 9))
    found = recall_intervals(ranks, np.array([0]))
    assert found["image_retrieval_recall@1"] == (0.0, 1.0)
    low, high = found["text_retrieval_recall@1"]
    assert 0 <= low < 0.1 < high


def test_identical_runs_do_not_differ() -> None:
    ranks, image_of = drawn(4, 40)
    for found in paired_differences(ranks, ranks, image_of).values():
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 40))
def test_exchanged_runs_differ_the_other_way(seed: int, images: int) -> None:
    (a, image_of), (b, _) = drawn(seed, images), drawn(seed + 1, images, scale=6.0)
    there, back = (paired_differences(*runs, image_of, resamples=200, sign_flips=199) for runs in ((a, b), (b, a)))
    for key, found in there.items():
        other = back[key]
        assert found.p == other.p
        assert (found.difference, found.low, found.high) == pytest.approx((-other.difference, -other.high, -other.low))
        assert found.difference == pytest.approx(b.recalls()[key] - a.recalls()[key], abs=1e-6)


def test_p_is_that_of_all_signs() -> None:
    """Nine images; the reference enumerates all 512 choices of signs."""
    (a, image_of), (b, _) = drawn(5, 9), drawn(6, 9, scale=1.0)
    found = paired_differences(a, b, image_of, sign_flips=20_000)
    hits = (b.image_retrieval < 5).astype(int) - (a.image_retrieval < 5)
    moved = np.bincount(image_of, weights=hits)
    sums = np.array([np.dot(signs, moved) for signs in product((-1, 1), repeat=9)])
    expected = (np.abs(sums) >= abs(moved.sum())).mean()
    assert found["image_retrieval_recall@5"].p == pytest.approx(expected, abs=0.012)


def test_runs_of_one_quality_seldom_differ() -> None:
    """Of 200 pairs from the same distribution about one in twenty has p < 0.05; a test that treats captions as
    independent would give several times as many."""
    below = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        image_of = np.repeat(np.arange(60), 5)
        runs = []
        for _ in range(2):
            of_image = np.repeat(generator.integers(0, 2, 60), 5)
            runs.append(RetrievalRanks(image_retrieval=of_image, text_retrieval=of_image[::5]))
        a, b = runs
        below += (
            paired_differences(a, b, image_of, ks=(1,), resamples=2, sign_flips=199)["image_retrieval_recall@1"].p
            <= 0.05
        )
    assert 2 <= below <= 22


def test_a_clear_difference_is_found() -> None:
    (a, image_of), (b, _) = drawn(7, 200, scale=8.0), drawn(8, 200, scale=2.0)
    found = paired_differences(a, b, image_of)["image_retrieval_recall@5"]
    assert 0 < found.low < found.difference < found.high
    assert found.p == 1 / 10_000


def test_ranks_of_other_data_are_refused() -> None:
    (a, image_of), (b, _) = drawn(9, 10), drawn(9, 11)
    with pytest.raises(ValueError, match="50 ranks of captions, 49 entries"):
        recall_intervals(a, image_of[:-1])
    with pytest.raises(ValueError, match="55 ranks of captions, 50 entries"):
        paired_differences(a, b, image_of)
    longer = RetrievalRanks(image_retrieval=a.image_retrieval, text_retrieval=b.text_retrieval)
    with pytest.raises(ValueError, match="run a has 10 images, run b has 11"):
        paired_differences(a, longer, image_of)
