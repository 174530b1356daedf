"""Augmentation keeps captions true: what is cropped, mirrored and left unchanged."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.images import to_pixels
from llm2clip_search.training.data.augmentation import Augmentation, names_a_side
from tests.support.images import photograph

PLACES = np.stack(np.meshgrid(np.arange(200), np.arange(100)), axis=-1)
"""x and y of every pixel: pixels of a crop show where it was taken."""
MAP = Image.fromarray(np.concatenate([PLACES, np.zeros((100, 200, 1))], axis=-1).astype(np.uint8))


def augmented(augmentation: Augmentation, *, seed: int, captions: list[str] | None = None) -> np.ndarray:
    return np.asarray(augmentation(MAP, captions or ["A dog."], np.random.default_rng(seed)))


@pytest.mark.parametrize(("crop", "aspect"), [(0.9, 1.0), (0.5, 1.0), (0.6, 4 / 3), (0.08, 16.0), (1.0, 2.0)])
def test_crops_respect_minimum_area_and_aspect(crop: float, aspect: float) -> None:
    shapes, corners = [], []
    for seed in range(200):
        pixels = augmented(Augmentation(crop=crop, aspect=aspect), seed=seed).astype(int)
        height, width = pixels.shape[:2]
        x, y = pixels[0, 0, :2]
        assert np.array_equal(pixels[..., :2], PLACES[y : y + height, x : x + width]), "pixels are unchanged"
        shapes.append((width / 200, height / 100))
        corners.append((x, y))
    wide, high = np.array(shapes).T
    stretch = wide / high
    assert stretch.max() <= aspect * 1.03
    assert stretch.min() >= 1 / aspect / 1.03
    assert (wide * high).min() >= crop * 0.97
    assert crop == 1.0 or len(set(corners)) > 25


@pytest.mark.parametrize(
    ("size", "found"), [(0, (224, 336, 256)), (224, (224, 336, 256)), (112, (112, 168, 128)), (280, (280, 420, 320))]
)
def test_the_size_of_an_augmented_image_keeps_the_proportions(size: int, found: tuple[int, int, int]) -> None:
    preprocess = PreprocessConfig(height=224, width=336, resize_to=256)
    view = Augmentation(size=size).input_of(preprocess)
    assert (view.height, view.width, view.resize_to) == found
    assert to_pixels(MAP, view).shape == (*found[:2], 3)
    assert replace(view, height=224, width=336, resize_to=256) == preprocess


def test_no_augmentation_is_the_image_itself() -> None:
    image = photograph(0)
    assert Augmentation(crop=1.0)(image, ["A dog."], np.random.default_rng(0)) is image


def test_results_depend_only_on_the_generator() -> None:
    augmentation = Augmentation(crop=0.5, aspect=1.3, flip=True, colour=0.4)
    assert np.array_equal(augmented(augmentation, seed=1), augmented(augmentation, seed=1))
    assert len({augmented(augmentation, seed=seed).tobytes() for seed in range(10)}) == 10


def test_half_of_the_images_are_mirrored_unless_a_caption_mentions_a_side() -> None:
    augmentation = Augmentation(crop=1.0, flip=True)
    mirrored = np.asarray(ImageOps.mirror(MAP))
    free = [np.array_equal(augmented(augmentation, seed=seed), mirrored) for seed in range(200)]
    assert 70 < sum(free) < 130
    sided = ["A dog.", "A dog on the left."]
    assert not any(np.array_equal(augmented(augmentation, seed=n, captions=sided), mirrored) for n in range(50))


def test_draws_after_a_flip_do_not_depend_on_the_caption() -> None:
    """The number of draws is the same whether or not a caption mentions a side."""
    augmentation = Augmentation(crop=0.5, flip=True, colour=0.4)
    generators = [np.random.default_rng(3) for _ in range(2)]
    for captions, generator in zip((["A dog."], ["On the left."]), generators, strict=True):
        augmentation(MAP, captions, generator)
    assert generators[0].random() == generators[1].random()


def test_colours_change_within_the_limit_and_grey_stays_grey() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    values = []
    for seed in range(50):
        pixels = np.asarray(Augmentation(crop=1.0, colour=0.2)(grey, [], np.random.default_rng(seed)))
        assert len(np.unique(pixels)) == 1
        values.append(int(pixels[0, 0, 0]))
    assert 79 <= min(values) < 90
    assert 110 < max(values) <= 121


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 3)])
def test_the_smallest_images_survive(size: tuple[int, int]) -> None:
    for seed in range(20):
        image = Augmentation(crop=0.1, aspect=3.0, flip=True, colour=0.5)(
            Image.new("RGB", size), ["x"], np.random.default_rng(seed)
        )
        assert image.width >= 1
        assert image.height >= 1


@pytest.mark.parametrize(
    "caption",
    [
        "A dog on the left.",
        "A right-handed batter swings.",
        "Der Mann links hält einen Ball.",
        "Ein Mädchen mit einem Ring am linken Ohr.",
        "Sein rechter Arm ist erhoben.",
        "Un homme à gauche d'un arbre.",
        "Sa main droite.",
        "Muž vlevo drží míč.",
        "Dívka na levé straně.",
        "Drží to v pravé ruce.",
        "Běží doleva, s míčem v levou rukou.",
        "左边的狗。",
        "一个人举起右手。",
    ],
)
def test_sides_are_recognised_in_all_languages_of_the_data(caption: str) -> None:
    assert names_a_side(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "A bright light over a cleft rock.",
        "Ein Mann blinkt.",
        "Zwei Leute im gerechten Streit.",
        "Un homme adroit.",
        "Lev v zoo.",
        "Levný vlak.",
        "一只狗在跑。",
    ],
)
def test_other_words_are_not_sides(caption: str) -> None:
    assert not names_a_side(caption)
