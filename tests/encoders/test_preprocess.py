"""Pixels against the published processors: transformers' CLIP and SigLIP, and open_clip's transform.

Those of transformers that work on PIL images are equalled value by value. Their torchvision variants, which version 5
takes by default, interpolate tensors and round otherwise: they are off by the levels that a test here states.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.image_processor import image_processor, read_image_processor
from llm2clip_search.encoders.images import read_rgb, to_pixels
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.vision import VisionTower
from tests.support.images import photograph

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(90, 60), (60, 90), (33, 47), (24, 24), (24, 31), (31, 24), (1, 40), (40, 1), (1, 1), (200, 57), (25, 26)]
"""Landscape, portrait, right already, right on one side, one pixel thin; odd and even rests on both sides."""


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """An image of independent values: a shift of one pixel or another filter shows everywhere."""
    generator = np.random.default_rng(size[0] * 1000 + size[1])
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "P": 1}[mode]
    values = generator.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    if mode != "P":
        return Image.fromarray(values[:, :, 0] if channels == 1 else values)
    image = Image.fromarray(values[:, :, 0], "L").convert("P")
    image.putpalette(generator.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


def ours(image: Image.Image, config: PreprocessConfig) -> torch.Tensor:
    """float32 ``[3, H, W]`` as the backbone gets it."""
    tower = VisionTower(torch.nn.Identity(), torch.nn.Identity(), config)
    pixels = torch.from_numpy(np.array(to_pixels(read_rgb(image), config)))
    return tower.normalise(pixels[None])[0]


def processor(folder: Path, name: str, **settings: Any) -> Any:
    """A processor of transformers from a file as its checkpoints come with, and our reading of that file."""
    ensure_torchvision()
    import transformers

    stated = {"image_processor_type": name, "image_mean": MEAN, "image_std": STD, **settings}
    stated |= {"do_convert_rgb": True, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return getattr(transformers, name).from_pretrained(folder), read_image_processor(folder)


CLIP = {"size": {"shortest_edge": 24}, "do_center_crop": True, "crop_size": {"height": 24, "width": 24}}
LARGER = {"size": {"shortest_edge": 29}, "do_center_crop": True, "crop_size": {"height": 24, "width": 24}}
SIGLIP = {"size": {"height": 24, "width": 24}}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("CLIPImageProcessorPil", CLIP), ("CLIPImageProcessorPil", LARGER), ("SiglipImageProcessorPil", SIGLIP)],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_every_value_is_that_of_the_pil_processors(
    tmp_path: Path, name: str, settings: dict[str, Any], mode: str
) -> None:
    theirs, config = processor(tmp_path, name, **settings)
    for size in SIZES:
        image = noise(size, mode)
        expected = theirs(image, return_tensors="pt")["pixel_values"][0]
        np.testing.assert_allclose(ours(image, config), expected, atol=2e-6, err_msg=f"{mode} {size}")


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 120), height=st.integers(1, 120), size=st.integers(1, 40), extra=st.integers(0, 9))
def test_any_shape_is_that_of_the_clip_processor(width: int, height: int, size: int, extra: int) -> None:
    """Any rest of the crop, odd or even, and through the file that an export writes."""
    ensure_torchvision()
    from transformers import CLIPImageProcessorPil

    config = PreprocessConfig(height=size, width=size, resize_to=size + extra, crop_rounding="down")
    image = noise((width, height))
    expected = CLIPImageProcessorPil(**image_processor(config))(image, return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(ours(image, config), expected, atol=2e-6)


@pytest.mark.parametrize(("name", "settings"), [("CLIPImageProcessor", CLIP), ("SiglipImageProcessor", SIGLIP)])
def test_the_torchvision_processors_differ_by_rounding_alone(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    """One of 255 levels here and there, and where torchvision's integer weights are coarse (33x47 squashed to 24x24)
    six at most and a quarter of a level on average; images that need no resize are equal."""
    theirs, config = processor(tmp_path, name, **settings)
    deviation = torch.tensor(STD)[:, None, None] * 255
    for image in (*map(noise, SIZES), photograph(3, (90, 60)), photograph(5, (640, 480))):
        expected = theirs(image, return_tensors="pt")["pixel_values"][0]
        levels = ((ours(image, config) - expected) * deviation).abs()
        coarse = image.size == (33, 47) and "Siglip" in name
        assert float(levels.max()) <= (6.001 if coarse else 1.001)
        assert float(levels.mean()) <= (0.3 if coarse else 0.01)
        if image.size == (24, 24):
            assert float(levels.max()) < 1e-3


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_value_is_that_of_open_clips_transform(mode: Any, interpolation: Any) -> None:
    ensure_torchvision()
    import open_clip

    theirs = open_clip.image_transform(
        24, is_train=False, mean=MEAN, std=STD, resize_mode=mode, interpolation=interpolation
    )
    config = PreprocessConfig(height=24, width=24, resize=mode, interpolation=interpolation, mean=MEAN, std=STD)
    for size in SIZES:
        for kind in ("RGB", "L"):
            image = noise(size, kind)
            np.testing.assert_allclose(ours(image, config), theirs(image), atol=2e-6, err_msg=f"{kind} {size}")


def test_the_two_ways_to_crop_are_one_pixel_apart() -> None:
    """27 columns to 24 leave 3: torchvision begins at 2, transformers at 1; 2 and 4 leave no choice."""
    for rest, nearest, down in ((2, 1, 1), (3, 2, 1), (4, 2, 2), (5, 2, 2), (7, 4, 3)):
        image = noise((24 + rest, 24))
        for rounding, start in (("nearest", nearest), ("down", down)):
            config = PreprocessConfig(height=24, width=24, crop_rounding=rounding)  # type: ignore[arg-type]
            np.testing.assert_array_equal(to_pixels(image, config), np.asarray(image)[:, start : start + 24])


def test_transparency_is_laid_on_white_where_processors_show_what_is_beneath(tmp_path: Path) -> None:
    """An opaque RGBA image is equal. A transparent one differs on purpose: what lies beneath is mostly black or an
    editor's leftover, and no viewer shows it."""
    theirs, config = processor(tmp_path, "CLIPImageProcessorPil", **CLIP)
    image = noise((24, 24), "RGBA")
    opaque = image.copy()
    opaque.putalpha(255)
    expected = theirs(opaque.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(ours(opaque, config), expected, atol=2e-6)
    alpha = np.asarray(image)[:, :, 3:] / 255
    white = np.asarray(image)[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(to_pixels(read_rgb(image), config) - white).max() <= 1


def test_a_large_jpeg_differs_by_less_than_a_level(tmp_path: Path) -> None:
    """The one step before pixels that processors do not have: a JPEG of more than twice the wanted side is decoded at
    a fraction of its size. Photographs of 896 pixels for a tower of 224 differ by a third of a level on average."""
    config = PreprocessConfig(height=24, width=24)
    detail = noise((12, 10)).resize((480, 400), Image.Resampling.BICUBIC)
    detail.save(tmp_path / "x.jpg", quality=95)
    whole = to_pixels(read_rgb(tmp_path / "x.jpg"), config).astype(int)
    fraction = to_pixels(read_rgb(tmp_path / "x.jpg", shortest=config.shortest), config)
    assert 0 < np.abs(whole - fraction).mean() < 1
    assert np.abs(whole - fraction).max() <= 8
