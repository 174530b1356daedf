"""Photographs that a test makes itself."""

import io

import numpy as np
from PIL import Image

from llm2clip_search.encoders.config import PreprocessConfig


def photograph(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A smooth picture that no other seed gives: coloured gradients, so that codecs keep its gist."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


PREPROCESS = PreprocessConfig(height=32, width=32, resize="squash")


def png(seed: int) -> bytes:
    """A photograph as the bytes of a PNG file."""
    data = io.BytesIO()
    photograph(seed).save(data, "PNG")
    return data.getvalue()
