"""Which images are hard negatives of each other, and batches that hold them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.base.vectors import unit
from llm2clip_search.training.data.hard_negatives import NONE, HardNegatives, neighbours_of
from llm2clip_search.training.data.image_captions import CaptionedImages, ImageCaptionSampler
from tests.support.corpus import caption_table

COUNT = 24
CONFIG = HardNegatives(nearest=3)


def vectors(seed: int, count: int = COUNT) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, 5)))


def versions(count: int = COUNT) -> list[np.ndarray]:
    """Images that do not look like each other."""
    draws = np.random.default_rng(9)
    return [draws.integers(256, size=768, dtype=np.uint8) for _ in range(count)]


def mined(
    texts: list[set[int]] | None = None, looks: list[np.ndarray] | None = None, config: HardNegatives = CONFIG
) -> np.ndarray:
    own = [{number} for number in range(COUNT)]
    return neighbours_of(vectors(1), vectors(2), texts=texts or own, versions=looks or versions(), config=config)


def test_neighbours_are_the_images_whose_captions_fit_best_both_ways() -> None:
    scores = vectors(1) @ vectors(2).T
    both = scores + scores.T
    np.fill_diagonal(both, -np.inf)
    assert np.array_equal(mined(), np.argsort(-both, axis=1)[:, :3])


def test_copies_and_images_with_a_common_caption_are_no_negatives() -> None:
    """The next nearest take their places."""
    plain = mined(config=replace(CONFIG, nearest=4))
    first, second = plain[0, :2].tolist()
    looks = versions()
    looks[first] = (looks[0] * 0.9 + 10).astype(np.uint8)  # the same picture with less contrast
    texts = [{number} for number in range(COUNT)]
    texts[second] |= texts[0]
    assert mined(texts, looks)[0].tolist()[:2] == plain[0, 2:].tolist()
    assert 0 not in mined(texts, looks)[[first, second]]
    assert first in mined(looks=looks, config=replace(CONFIG, near_duplicates=1.0))[0]


def test_few_images_have_few_neighbours() -> None:
    found = neighbours_of(
        vectors(1, 3), vectors(2, 3), texts=[{0}, {0}, {1}], versions=versions(3), config=HardNegatives(nearest=5)
    )
    assert found.tolist()[:2] == [[2, NONE, NONE, NONE, NONE], [2, NONE, NONE, NONE, NONE]]
    assert sorted(found[2].tolist()) == [NONE, NONE, NONE, 0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1.0}, r"share is 1\.0, but it has to be between 0 and 1"),
        ({"share": 0.0}, r"share is 0\.0"),
        ({"nearest": 0}, "nearest is 0, but it has to be at least 1"),
        ({"near_duplicates": 1.5}, r"near_duplicates is 1\.5, but it has to be between 0 and 1"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HardNegatives(**values)  # type: ignore[arg-type]


def sampler(batch: int, neighbours: np.ndarray, share: float, weights: np.ndarray | None = None) -> ImageCaptionSampler:
    captioned = CaptionedImages(
        image_ids=[str(number) for number in range(COUNT)],
        caption_rows=[np.array([number]) for number in range(COUNT)],
        weights=np.ones(COUNT) if weights is None else weights,
        skipped={},
    )
    captions = caption_table([(f"{number}.jpg", f"thing {number}") for number in range(COUNT)])
    out = ImageCaptionSampler(
        captioned, captions, batch_size=batch, captions_per_image=1, long_ratio=0.5, lang_weights={}, seed=3
    )
    out.add_hard_negatives(neighbours, share)
    return out


@settings(deadline=None, max_examples=60)
@given(batch=st.integers(2, COUNT + 3), share=st.floats(0.05, 0.95), step=st.integers(0, 40), some=st.booleans())
def test_a_batch_is_full_has_no_image_twice_and_depends_on_seed_and_step(
    batch: int, share: float, step: int, some: bool
) -> None:
    near = mined()
    if some:
        near[::2] = NONE
    data = sampler(batch, near, share)
    drawn = data.draw(step).images
    assert len(drawn) == len(set(drawn.tolist())) == min(batch, COUNT)
    data.draw(step + 5)
    assert np.array_equal(data.draw(step).images, drawn)


def test_half_of_a_batch_are_neighbours_of_the_other_half() -> None:
    near = mined()
    data = sampler(8, near, 0.5)
    for step in range(12):
        images = data.draw(step).images
        assert set(images[4:].tolist()) <= set(near[images[:4]].ravel().tolist())
    assert data.steps_per_epoch == 6
    firsts = np.concatenate([data.draw(step).images[:4] for step in range(6)])
    assert sorted(firsts.tolist()) == list(range(COUNT)), "every image is drawn once per epoch, whatever its neighbours"


def test_images_of_a_source_without_weight_are_not_drawn_as_negatives() -> None:
    weights = np.ones(COUNT)
    weights[::3] = 0.0
    data = sampler(8, mined(), 0.75, weights)
    assert not any((data.draw(step).images % 3 == 0).any() for step in range(40))
