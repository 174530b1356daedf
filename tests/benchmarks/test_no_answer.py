"""No-answer measures and calibrations of galleries, each against a plain reference."""

from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.benchmarks.datasets.base import Captions
from llm2clip_search.benchmarks.no_answer import Embedded, calibrate, embed_set, joined_gallery, measure_no_answer
from llm2clip_search.encoders.calibration import Calibration
from llm2clip_search.errors import CorpusError
from tests.support.encoders import ColourEncoder
from tests.support.galleries import gallery

IMAGES = 12


class Calibrated(ColourEncoder):
    calibration = Calibration(lead=4.0, cosine=2.0, offset=-3.0)


def drawn(noise: float, *, images: int = 160, seed: int = 0) -> Embedded:
    """Images in general position and three captions of each; the smaller the noise, the more are found."""
    generator = np.random.default_rng(seed)

    def unit(vectors: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return scaled

    vectors, image_of = unit(generator.normal(size=(images, 32))), np.repeat(np.arange(images), 3)
    captions = unit(vectors[image_of] + noise * generator.normal(size=(len(image_of), 32)))
    return Embedded(
        name=f"toy {seed}",
        language="en",
        images=vectors,
        captions=captions,
        image_of=image_of,
        described=[f"picture {number}" for number in range(images)],
        contents=[f"{seed} {number}" for number in range(images)],
    )


@pytest.fixture
def embedded(tmp_path: Path) -> Embedded:
    """Twelve images with two captions each, of which neighbours share a word."""
    pairs = [(f"{n}.png", f"{word} number {n // 2}") for n in range(IMAGES) for word in ("dusk", "dawn")]
    dataset = gallery(tmp_path / "toy", {"en": Captions.of(pairs)}, images=IMAGES)
    (found,) = embed_set(ColourEncoder(), dataset, cache=None)
    return found


def test_measures_are_those_of_asking_each_caption_twice(embedded: Embedded) -> None:
    result = measure_no_answer(Calibrated(), embedded)
    right, removed, probable, outcomes = [], [], [], []
    for caption, own in zip(embedded.captions, embedded.image_of, strict=True):
        for without in (False, True):
            rows = [row for row in range(IMAGES) if not (without and row == own)]
            scores = [float(caption @ embedded.images[row]) for row in rows]
            best = max(scores)
            is_right = rows[scores.index(best)] == own
            of_query = Calibrated.calibration.for_query(np.sort(scores)[::-1], len(rows))
            probable.append(of_query(best))
            outcomes.append(is_right)
            if without:
                removed.append(best)
            elif is_right:
                right.append(best)
    assert result.image_retrieval_recall_at_1 == len(right) / (2 * IMAGES)
    pairs = [(high > low) + (high == low) / 2 for high in right for low in removed]
    assert right, "without a right hit there is nothing to compare"
    assert result.auc["cosine"] == pytest.approx(sum(pairs) / len(pairs))
    told, found = np.array(probable), np.array(outcomes)
    groups = np.array_split(np.argsort(told, kind="stable"), 10)
    gaps = [abs(told[group].mean() - found[group].mean()) * len(group) for group in groups]
    assert result.calibration_error == pytest.approx(sum(gaps) / len(told), abs=1e-4)
    assert list(result.auc)[-1] == "probability"


def test_hard_negatives_are_described_alike(embedded: Embedded) -> None:
    """With captions that are vectors of their images, an image is above all others; languages have words or none."""
    seen = Embedded(**{**vars(embedded), "captions": embedded.images[embedded.image_of]})
    result = measure_no_answer(ColourEncoder(), seen)
    assert (result.hard_negative_recall_at_1, result.hard_negative_mean_rank) == (1.0, 1.0)
    assert result.calibration_error is None
    wordless = Embedded(**{**vars(embedded), "described": ["一"] * IMAGES})
    assert measure_no_answer(ColourEncoder(), wordless).hard_negative_recall_at_1 is None


def test_copies_are_one_image_of_a_common_gallery(embedded: Embedded) -> None:
    part = embedded.part(np.arange(4, IMAGES))
    assert len(part.captions) == 2 * (IMAGES - 4)
    both = joined_gallery([part, embedded])
    assert len(both.images) == IMAGES
    assert len(both.captions) == 2 * IMAGES + 2 * (IMAGES - 4)
    assert both.contents == [*part.contents, *embedded.contents[:4]]
    for place, vector in enumerate(both.captions):
        source = part if place < len(part.captions) else embedded
        own = source.image_of[place if source is part else place - len(part.captions)]
        assert both.contents[both.image_of[place]] == source.contents[own]
        assert vector.tolist() == source.captions[place if source is part else place - len(part.captions)].tolist()


def test_a_calibration_holds_in_other_galleries() -> None:
    """Fitted on one, it is right about another of another size, within what 700 captions can show."""
    sets = [drawn(0.28, seed=1), drawn(0.28, images=240, seed=2)]
    found = calibrate(sets)
    assert found.fitted_on == ("toy 1 en", "toy 2 en")
    assert found.lead > 0

    class Fitted(ColourEncoder):
        calibration = found

    other = measure_no_answer(Fitted(), drawn(0.28, images=400, seed=3))
    assert 0.3 < other.image_retrieval_recall_at_1 < 0.98, "some hits are right and some are wrong"
    assert other.calibration_error is not None
    assert other.calibration_error < 0.08
    assert other.auc["probability"] is not None
    assert other.auc["probability"] > 0.8


def test_equal_seeds_give_equal_calibrations() -> None:
    assert calibrate([drawn(0.3)], seed=4) == calibrate([drawn(0.3)], seed=4)
    assert calibrate([drawn(0.3)], seed=4) != calibrate([drawn(0.3)], seed=5)


def test_what_cannot_be_measured_is_one_sentence(tmp_path: Path) -> None:
    one = gallery(tmp_path / "one", {"en": Captions.of([("0.png", "dusk")])}, images=1)
    with pytest.raises(CorpusError, match="toy dev has 1 image; at least two are needed"):
        embed_set(ColourEncoder(), one, cache=None)
    wrong = drawn(0.0, images=4)
    with pytest.raises(CorpusError, match="cannot be calibrated: all 24 best hits are wrong"):
        calibrate([Embedded(**{**vars(wrong), "image_of": (wrong.image_of + 1) % 4})])
