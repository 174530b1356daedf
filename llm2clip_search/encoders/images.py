"""Decode files, PIL images and arrays to upright RGB, and resize them to a tower's pixels.

Headers are checked before pixels are decoded, so that a hostile file costs no more than reading its header.
"""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.errors import ImageError

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray

MAX_PIXELS = 200_000_000
"""Default limit on an image's size, in pixels: 600 MB as RGB."""

_LIMIT = Lock()
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@cache
def register_plugins() -> None:
    """Register HEIC and JPEG XL with Pillow if their extras are installed; Pillow itself reads AVIF."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401 - its import registers it


@contextmanager
def _pillow_without_its_own_limit() -> Iterator[None]:
    """Disable Pillow's limit of 179 MP, a global that other code may rely on, while `open_image` applies its own."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_image(file: str | os.PathLike[str] | BinaryIO, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image's header; pixels are not decoded.

    Raises:
        ImageError: stage ``read`` if the file cannot be opened, ``header`` if it is not an image or declares more than
            ``max_pixels`` pixels.
    """
    register_plugins()
    try:
        with _pillow_without_its_own_limit():
            image = Image.open(file)
    except UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can read", stage="header") from error
    except OSError as error:
        # Errors of the operating system have a number; without one, the file's content is at fault.
        raise ImageError(error.strerror or str(error), stage="read" if error.errno else "header") from error
    except Exception as error:  # a format's parser may raise anything on a hostile header
        raise ImageError(f"{type(error).__name__} in its header: {error}", stage="header") from error
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise ImageError(
            f"declares {image.width} x {image.height} = {pixels:,} pixels, over the limit of {max_pixels:,}",
            stage="header",
            hint="Raise the limit with --max-pixels.",
        )
    return image


def decode_upright(image: Image.Image, *, shortest: int | None = None) -> Image.Image:
    """Decode an opened image to RGB: its first frame, with EXIF rotation applied.

    Transparency is blended with white; 16-bit and float images are scaled to 8 bits by their range.

    Args:
        shortest: a JPEG is decoded at a reduced size whose shorter side has at least ``2 * shortest`` pixels, so that
            the resize that follows still has twice the detail it keeps.

    Raises:
        ImageError: stage ``decode``, if the pixels are truncated or damaged.
    """
    try:
        if shortest is not None:
            image.draft(None, (2 * shortest, 2 * shortest))
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _to_rgb(upright)
    except Exception as error:  # codecs raise OSError, SyntaxError, struct.error, ValueError, ...
        raise ImageError(f"{type(error).__name__}: {error}", stage="decode") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        # 16-bit PNGs may have mode I, and floats may be in 0..1; anything else is scaled by its range.
        top = 65535.0 if image.mode == "I" and 255 < values.max() <= 65535 else max(values.max(), 1.0)
        low = min(values.min(), 0.0)
        scaled = (values - low) / (top - low) * 255.0
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def read_rgb(source: ImageInput, *, max_pixels: int = MAX_PIXELS, shortest: int | None = None) -> Image.Image:
    """An upright RGB image from a path, a PIL image, or an array.

    Args:
        source: arrays are ``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]``, uint8 in 0..255 or float in 0..1.
        shortest: as for `decode_upright`, for paths.

    Raises:
        ImageError: with the stage that failed.
    """
    if isinstance(source, Image.Image):
        return decode_upright(source.copy())
    if isinstance(source, np.ndarray):
        return _from_array(source)
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}", stage="read") from error
    try:
        with open_image(io.BytesIO(data), max_pixels=max_pixels) as image:
            return decode_upright(image, shortest=shortest)
    except ImageError as error:
        raise ImageError(f"{path}: {error}", stage=error.stage, hint=error.hint) from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise ImageError(f"an image array is [H, W] or [H, W, 1|3|4], not {list(array.shape)}", stage="decode")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if np.issubdtype(array.dtype, np.floating):
        array = (np.clip(array, 0.0, 1.0) * 255.0).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"an image array is uint8 or float, not {array.dtype}", stage="decode")
    return _to_rgb(Image.fromarray(array))


def to_pixels(image: Image.Image, config: PreprocessConfig) -> np.ndarray:
    """Resize and crop an RGB image to the tower's input: uint8 ``[height, width, 3]``.

    The result equals that of torchvision's ``Resize`` and ``CenterCrop`` on PIL images, which timm and open_clip use,
    and with ``crop_rounding="down"`` that of transformers' PIL processors.
    """
    method = _RESAMPLING[config.interpolation]
    if config.resize == "squash":
        if image.size != (config.width, config.height):
            image = image.resize((config.width, config.height), method)
        return np.asarray(image)
    short = config.shortest
    width, height = image.size
    scaled = (
        (short, max(1, int(short * height / width)))
        if width <= height
        else (max(1, int(short * width / height)), short)
    )
    if scaled != image.size:
        image = image.resize(scaled, method)
    over = (scaled[0] - config.width, scaled[1] - config.height)
    left, top = (rest // 2 if config.crop_rounding == "down" else round(rest / 2) for rest in over)
    if (left, top) != (0, 0) or scaled != (config.width, config.height):
        image = image.crop((left, top, left + config.width, top + config.height))
    return np.asarray(image)


def stack_pixels(images: Sequence[Image.Image], config: PreprocessConfig) -> np.ndarray:
    """RGB images as one batch: uint8 ``[n, height, width, 3]``."""
    if not images:
        return np.empty((0, config.height, config.width, 3), dtype=np.uint8)
    return np.stack([to_pixels(image, config) for image in images])
