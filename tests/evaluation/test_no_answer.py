"""Best hits, AUC, calibration error and the fit, each against a plain reference."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.encoders.calibration import POOL, Calibration, lead_scale
from llm2clip_search.evaluation.hard_negatives import hard_negatives, ranks_among
from llm2clip_search.evaluation.no_answer import BestHits, auc, best_hits, calibration_error, fit_calibration


def unit(seed: int, count: int, dim: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    out: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return out


@pytest.mark.parametrize("images", [2, 7, 40])
@pytest.mark.parametrize("without_own", [False, True])
def test_best_hits_are_those_of_looking_at_every_image(images: int, without_own: bool) -> None:
    gallery, captions = unit(0, images), unit(1, 50)
    image_of = np.random.default_rng(2).integers(0, images, 50)
    found = best_hits(gallery, captions, image_of, without_own=without_own, chunk=16)
    assert found.rows == images - without_own
    for row, (caption, own) in enumerate(zip(captions, image_of, strict=True)):
        scored = [(float(caption @ image), number) for number, image in enumerate(gallery)]
        if without_own:
            scored = [each for each in scored if each[1] != own]
        values = [score for score, _ in scored]
        best = sorted(scored, key=lambda each: (-each[0], each[1]))
        assert found.hit[row] == best[0][1]
        assert found.is_right[row] == (best[0][1] == own)
        assert found.score[row] == pytest.approx(best[0][0], abs=1e-6)
        pool = [score for score, _ in best[:POOL]]
        assert found.pool[row] == pytest.approx(np.mean(pool), abs=1e-6)
        assert found.lead_10[row] == pytest.approx(best[0][0] - best[min(10, len(best)) - 1][0], abs=1e-6)
        if len(values) > 1:
            assert found.z_score[row] == pytest.approx((best[0][0] - np.mean(values)) / np.std(values), abs=1e-3)
    assert not (without_own and found.is_right.any())


def test_one_image_is_no_gallery() -> None:
    with pytest.raises(ValueError, match="a gallery of 1 images"):
        best_hits(unit(0, 1), unit(1, 2), np.zeros(2, dtype=np.int64))


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_auc_is_the_share_of_pairs(positives: list[int], negatives: list[int]) -> None:
    pairs = [1.0 if high > low else 0.5 if high == low else 0.0 for high, low in product(positives, negatives)]
    assert auc(np.array(positives), np.array(negatives)) == pytest.approx(sum(pairs) / len(pairs))


def test_auc_of_nothing_is_unknown() -> None:
    assert auc(np.array([]), np.array([1.0])) is None
    assert auc(np.array([1.0]), np.array([])) is None


def test_calibration_error() -> None:
    """Probabilities that are right have none; those of a coin that never falls have half."""
    drawn = np.random.default_rng(0).random(100_000)
    assert calibration_error(drawn, np.random.default_rng(1).random(100_000) < drawn) < 0.01
    assert calibration_error(np.full(100, 0.5), np.zeros(100, dtype=bool)) == pytest.approx(0.5)
    assert calibration_error(np.array([]), np.array([], dtype=bool)) == 0


def hits_of(score: np.ndarray, pool: np.ndarray, is_right: np.ndarray, rows: int) -> BestHits:
    zeros = np.zeros(len(score))
    return BestHits(
        score=score, pool=pool, z_score=zeros, lead_10=zeros, hit=zeros.astype(int), is_right=is_right, rows=rows
    )


def drawn(truth: Calibration, rows: int, *, count: int = 40_000, seed: int = 0) -> BestHits:
    """Hits that are right with the probability of a calibration."""
    generator = np.random.default_rng(seed)
    score, pool = generator.uniform(0.3, 0.7, count), generator.uniform(0.2, 0.4, count)
    found = hits_of(score, pool, np.zeros(count, dtype=bool), rows)
    return hits_of(score, pool, generator.random(count) < found.probability(truth), rows)


def test_the_fit_finds_what_the_hits_were_drawn_by() -> None:
    truth = Calibration(lead=2.0, cosine=4.0, offset=-3.0)
    found = fit_calibration([drawn(truth, 50), drawn(truth, 5000, count=8_000, seed=1)], fitted_on=["toy en"])
    assert (found.lead, found.cosine, found.offset) == pytest.approx((2.0, 4.0, -3.0), rel=0.2)
    assert found.fitted_on == ("toy en",)
    assert calibration_error(drawn(truth, 50).probability(found), drawn(truth, 50).is_right) < 0.02


def test_the_probability_of_best_hits_is_that_of_queries() -> None:
    calibration = Calibration(lead=1.5, cosine=3.0, offset=-2.0)
    gallery, captions = unit(0, 60), unit(1, 20)
    found = best_hits(gallery, captions, np.zeros(20, dtype=np.int64)).probability(calibration)
    for row, caption in enumerate(captions):
        scores = np.sort(gallery @ caption)[::-1]
        assert calibration.for_query(scores, 60)(float(scores[0])) == pytest.approx(found[row], abs=1e-5)
        logit = 1.5 * math.sqrt(2 * math.log(60)) * (scores[0] - scores[:POOL].mean()) + 3.0 * scores[0] - 2.0
        assert found[row] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)


def test_a_better_hit_is_never_less_probable() -> None:
    """Even where right hits have lower cosines, as with data sets of different kinds."""
    generator = np.random.default_rng(0)
    is_right = generator.random(2000) < 0.5
    score = generator.normal(0.5, 0.05, 2000) - 0.1 * is_right
    found = fit_calibration([hits_of(score, score - 0.1 - 0.1 * is_right * generator.random(2000), is_right, 100)])
    assert found.cosine == 0.0
    assert found.lead > 0


def test_perfect_separation_has_finite_slopes() -> None:
    is_right = np.arange(100) < 50
    score = np.where(is_right, 0.9, 0.3)
    found = fit_calibration([hits_of(score, np.full(100, 0.2), is_right, 100)])
    assert 0 < found.lead * lead_scale(100) + found.cosine < 1e4
    probable = hits_of(score, np.full(100, 0.2), is_right, 100).probability(found)
    assert probable[is_right].min() > 0.95
    assert probable[~is_right].max() < 0.05


@pytest.mark.parametrize("right", [True, False])
def test_hits_of_one_kind_cannot_be_fitted(right: bool) -> None:
    with pytest.raises(ValueError, match=f"all 5 best hits are {'right' if right else 'wrong'}"):
        fit_calibration([hits_of(np.ones(5), np.zeros(5), np.full(5, right), 10)])


def test_hard_negatives_are_the_most_similar_others() -> None:
    documents = unit(0, 30)
    found = hard_negatives(documents, count=4, chunk=7)
    for row, others in enumerate(found):
        similar = documents @ documents[row]
        assert others.tolist() == [other for other in np.argsort(-similar).tolist() if other != row][:4]
    assert hard_negatives(documents[:3], count=10).shape == (3, 2)


def test_ranks_among_hard_negatives() -> None:
    images, captions = unit(0, 20), unit(1, 45)
    image_of = np.arange(45) % 20
    negatives = hard_negatives(unit(2, 20), count=5)
    found = ranks_among(images, captions, image_of, negatives, chunk=10)
    for row, (caption, own) in enumerate(zip(captions, image_of, strict=True)):
        scores = images @ caption
        assert found[row] == (scores[negatives[own]] >= scores[own]).sum()
    copies = np.repeat(unit(3, 1), 6, axis=0)
    assert ranks_among(copies, unit(4, 2), np.array([0, 1]), hard_negatives(unit(5, 6))).tolist() == [5, 5]
