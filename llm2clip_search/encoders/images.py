"""Files, PIL images and arrays as upright RGB, resized to a tower's pixels."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.decode_memory import MAX_PIXELS
from llm2clip_search.encoders.image_types import register_plugins
from llm2clip_search.encoders.reading import Picture, reading, upright_rgb
from llm2clip_search.encoders.to_rgb import to_rgb
from llm2clip_search.errors import ImageError

__all__ = [
    "MAX_PIXELS",
    "ImageInput",
    "Picture",
    "read_rgb",
    "reading",
    "register_plugins",
    "stack_pixels",
    "to_pixels",
]

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray

_LARGE = 1 << 24
"""An image that would have more pixels between two steps of a resize, as one of 3,000,000 x 1 pixels has, is resized in
another order, which differs in rounding from what other libraries do and takes little memory."""
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def read_rgb(source: ImageInput, *, max_pixels: int = MAX_PIXELS, shortest: int | None = None) -> Image.Image:
    """An upright RGB image from a path, a PIL image, or an array; files are read as `reading` does.

    Args:
        source: arrays are ``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]``, uint8 in 0..255 or float in 0..1.
        shortest: as for `reading`, for paths.

    Raises:
        ImageError: with the stage that failed.
    """
    if isinstance(source, Image.Image):
        return upright_rgb(source.copy())
    if isinstance(source, np.ndarray):
        return _from_array(source)
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}", stage="read") from error
    try:
        with reading(data, max_pixels=max_pixels, shortest=shortest) as picture:
            return picture.rgb
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
    return to_rgb(Image.fromarray(array))


def to_pixels(image: Image.Image, config: PreprocessConfig) -> np.ndarray:
    """Resize and crop an RGB image to the tower's input: uint8 ``[height, width, 3]``.

    The result equals that of torchvision's ``Resize`` and ``CenterCrop`` on PIL images, which timm and open_clip use,
    and with ``crop_rounding="down"`` that of transformers' PIL processors.
    """
    method = _RESAMPLING[config.interpolation]
    if config.resize == "squash":
        whole = (0.0, 0.0, float(image.width), float(image.height))
        return np.asarray(_resize(image, (config.width, config.height), method, whole))
    short = config.shortest
    width, height = image.size
    scaled = (
        (short, max(1, int(short * height / width)))
        if width <= height
        else (max(1, int(short * width / height)), short)
    )
    over = (scaled[0] - config.width, scaled[1] - config.height)
    left, top = (rest // 2 if config.crop_rounding == "down" else round(rest / 2) for rest in over)
    if scaled[0] * scaled[1] > _LARGE and min(over) >= 0:
        return _resized_part(image, scaled, (left, top, left + config.width, top + config.height), method)
    if scaled != image.size:
        image = image.resize(scaled, method)
    if (left, top) != (0, 0) or scaled != (config.width, config.height):
        image = image.crop((left, top, left + config.width, top + config.height))
    return np.asarray(image)


def _resized_part(
    image: Image.Image, scaled: tuple[int, int], part: tuple[int, int, int, int], method: Image.Resampling
) -> np.ndarray:
    """What a box holds of the image resized to ``scaled``. The widest filter reads three pixels around it."""
    width, height = image.width / scaled[0], image.height / scaled[1]  # of a pixel of the result
    beside, above = (3 + int(np.ceil(3 / side)) for side in (width, height))
    left, top = max(0, part[0] - beside), max(0, part[1] - above)
    right, bottom = min(scaled[0], part[2] + beside), min(scaled[1], part[3] + above)
    box = (left * width, top * height, right * width, bottom * height)
    around = _resize(image, (right - left, bottom - top), method, box)
    return np.asarray(around.crop((part[0] - left, part[1] - top, part[2] - left, part[3] - top)))


def _resize(
    image: Image.Image,
    size: tuple[int, int],
    method: Image.Resampling,
    box: tuple[float, float, float, float],
) -> Image.Image:
    """Resize what a box holds. Pillow resizes rows first; columns come first where that takes less memory."""
    if size == image.size and tuple(box[:2]) == (0, 0) and tuple(box[2:]) == size:
        return image
    if size[0] * (box[3] - box[1]) > _LARGE and size[0] > box[2] - box[0]:
        left, right = int(box[0]), min(image.width, int(np.ceil(box[2])) + 1)
        image = image.crop((left, 0, right, image.height)).resize(
            (right - left, size[1]), method, box=(0, box[1], right - left, box[3])
        )
        box = (box[0] - left, 0, box[2] - left, size[1])
    return image.resize(size, method, box=box)


def stack_pixels(images: Sequence[Image.Image], config: PreprocessConfig) -> np.ndarray:
    """RGB images as one batch: uint8 ``[n, height, width, 3]``."""
    if not images:
        return np.empty((0, config.height, config.width, 3), dtype=np.uint8)
    return np.stack([to_pixels(image, config) for image in images])
