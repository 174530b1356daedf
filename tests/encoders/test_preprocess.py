"""Preprocessing compared with the published processors: transformers' CLIP and SigLIP, and open_clip's transform.

Values equal those of transformers' processors for PIL images. Their torchvision variants, the default in version 5,
interpolate tensors and round differently, by the number of levels that a test here states.
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
"""Landscape, portrait, of the right size, right on one side, one pixel thin; odd and even remainders on both sides."""


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """An image of independent values, which reveals a shift by one pixel or another filter everywhere."""
    generator = np.random.default_rng(size[0] * 1000 + size[1])
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "P": 1}[mode]
    values = generator.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    if mode != "P":
        return Image.fromarray(values[:, :, 0] if channels == 1 else values)
    image = Image.fromarray(values[:, :, 0], "L").convert("P")
    image.putpalette(generator.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


def ours(image: Image.Image, config: PreprocessConfig) -> torch.Tensor:
    """The backbone's input, float32 ``[3, H, W]``."""
    tower = VisionTower(torch.nn.Identity(), torch.nn.Identity(), config)
    pixels = torch.from_numpy(np.array(to_pixels(read_rgb(image), config)))
    return tower.normalise(pixels[None])[0]


def processor(folder: Path, name: str, **settings: Any) -> Any:
    """A processor of transformers made from a checkpoint's file, and this project's reading of that file."""
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
def test_values_equal_those_of_the_pil_processors(
    tmp_path: Path, name: str, settings: dict[str, Any], mode: str
) -> None:
    theirs, config = processor(tmp_path, name, **settings)
    for size in SIZES:
        image = noise(size, mode)
        expected = theirs(image, return_tensors="pt")["pixel_values"][0]
        np.testing.assert_allclose(ours(image, config), expected, atol=2e-6, err_msg=f"{mode} {size}")


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 120), height=st.integers(1, 120), size=st.integers(1, 40), extra=st.integers(0, 9))
def test_any_shape_equals_the_clip_processor(width: int, height: int, size: int, extra: int) -> None:
    """For any remainder of the crop, odd or even, and with the settings that an export writes."""
    ensure_torchvision()
    from transformers import CLIPImageProcessorPil

    config = PreprocessConfig(height=size, width=size, resize_to=size + extra, crop_rounding="down")
    image = noise((width, height))
    expected = CLIPImageProcessorPil(**image_processor(config))(image, return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(ours(image, config), expected, atol=2e-6)


@pytest.mark.parametrize(("name", "settings"), [("CLIPImageProcessor", CLIP), ("SiglipImageProcessor", SIGLIP)])
def test_the_torchvision_processors_differ_only_by_rounding(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    """By one of 255 levels in places; where torchvision's integer weights are coarse (33x47 squashed to 24x24), by at
    most six, and a quarter of a level on average. Images that need no resize are equal."""
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
def test_values_equal_those_of_open_clips_transform(mode: Any, interpolation: Any) -> None:
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
    """Cropping 27 columns to 24 leaves 3: torchvision starts at 2, transformers at 1; for 2 and 4 they agree."""
    for rest, nearest, down in ((2, 1, 1), (3, 2, 1), (4, 2, 2), (5, 2, 2), (7, 4, 3)):
        image = noise((24 + rest, 24))
        for rounding, start in (("nearest", nearest), ("down", down)):
            config = PreprocessConfig(height=24, width=24, crop_rounding=rounding)  # type: ignore[arg-type]
            np.testing.assert_array_equal(to_pixels(image, config), np.asarray(image)[:, start : start + 24])


def test_transparency_is_blended_with_white_where_processors_ignore_it(tmp_path: Path) -> None:
    """An opaque RGBA image is equal. A transparent one differs on purpose: transparent pixels are mostly black or an
    editor's remains, which no viewer shows."""
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
    """The only step that processors do not have: a JPEG of more than twice the target size is decoded at a reduced
    size. Photographs of 896 pixels for a tower of 224 differ by a third of a level on average."""
    config = PreprocessConfig(height=24, width=24)
    detail = noise((12, 10)).resize((480, 400), Image.Resampling.BICUBIC)
    detail.save(tmp_path / "x.jpg", quality=95)
    whole = to_pixels(read_rgb(tmp_path / "x.jpg"), config).astype(int)
    fraction = to_pixels(read_rgb(tmp_path / "x.jpg", shortest=config.shortest), config)
    assert 0 < np.abs(whole - fraction).mean() < 1
    assert np.abs(whole - fraction).max() <= 8


@pytest.mark.parametrize("rounding", ["nearest", "down"])
def test_thin_images_are_resized_and_cropped_in_one_step(rounding: Any) -> None:
    """The result is that of the two steps within rounding, and only what is kept is computed."""
    config = PreprocessConfig(height=64, width=64, crop_rounding=rounding)
    for size in ((60_000, 7), (7, 60_000)):
        image = photograph(1, size)
        scaled = (int(64 * size[0] / 7), int(64 * size[1] / 7))
        whole = image.resize(scaled, Image.Resampling.BICUBIC)
        left, top = (rest // 2 if rounding == "down" else round(rest / 2) for rest in (scaled[0] - 64, scaled[1] - 64))
        expected = np.asarray(whole.crop((left, top, left + 64, top + 64))).astype(int)
        assert np.abs(to_pixels(image, config) - expected).max() <= 2


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("size", [(3_000_000, 1), (1, 3_000_000), (2, 900_000)])
def test_thin_images_take_little_memory(resize: Any, size: tuple[int, int]) -> None:
    """Scaled to its shorter side, the first would have 150 thousand million pixels."""
    image = Image.new("RGB", size, (9, 90, 200))
    tracked = to_pixels(image, PreprocessConfig(height=224, width=224, resize=resize))
    assert (tracked == (9, 90, 200)).all()
