"""Files, PIL images and arrays as upright RGB, resized to a tower's pixels."""

import os

import numpy as np
from PIL import Image

from llm2clip_search.base.files import user_path
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.decode_memory import MAX_PIXELS
from llm2clip_search.encoders.image_types import register_plugins
from llm2clip_search.encoders.inputs import ImageInput, array_image, image_bytes, is_array
from llm2clip_search.encoders.reading import Picture, reading, upright_rgb
from llm2clip_search.encoders.to_rgb import to_rgb
from llm2clip_search.errors import ImageError, InputError

__all__ = [
    "MAX_PIXELS",
    "ImageInput",
    "Picture",
    "read_rgb",
    "reading",
    "register_plugins",
    "to_pixels",
]


_LARGE = 1 << 24
"""An image that would have more pixels between two steps of a resize, as one of 3,000,000 x 1 pixels has, is resized in
another order, which differs in rounding from what other libraries do and takes little memory."""
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def read_rgb(source: ImageInput, *, max_pixels: int = MAX_PIXELS, shortest: int | None = None) -> Image.Image:
    """An upright RGB image of anything that is one; files are read as `reading` does.

    Args:
        source: as `ImageInput` describes.
        shortest: as for `reading`, for files.

    Raises:
        ImageError: with the stage that failed.
        InputError: something that is not an image.
    """
    if isinstance(source, Image.Image):
        try:
            copy = source.copy()
        except Exception as error:  # it was opened and not decoded yet, or is closed
            raise ImageError(f"{type(error).__name__}: {error}", stage="decode") from error
        return upright_rgb(copy)
    if is_array(source):
        return to_rgb(array_image(source))
    given, data = getattr(source, "name", None), image_bytes(source)
    name = given if isinstance(given, str) else "the image in memory"  # the name of a file without one is a number
    if data is None:
        if not isinstance(source, str | os.PathLike):
            raise InputError(
                f"An image is a path, bytes, an open file, a PIL image or an array, not {type(source).__name__}."
            )
        path = user_path(source)
        name = str(path)
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            raise ImageError(f"{path}: {getattr(error, 'strerror', None) or error}", stage="read") from error
    try:
        with reading(data, max_pixels=max_pixels, shortest=shortest) as picture:
            return picture.rgb
    except ImageError as error:
        raise ImageError(f"{name}: {error}", stage=error.stage, hint=error.hint) from error


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
