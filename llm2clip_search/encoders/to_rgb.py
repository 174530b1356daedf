"""Any mode of Pillow to 8-bit RGB, in strips: what conversion takes beside source and result stays small.

Deep images are scaled to 8 bits by `_levels`. Transparency is laid on white.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngImageFile

STRIP_PIXELS = 1 << 22
"""Pixels that are converted at once: 32 MB as float64."""

_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE, _SAMPLE_FORMAT, _LARGEST_SAMPLE = 258, 262, 281, 339, 341
"""Numbers of TIFF tags."""
_KEYED_BITS = {"L;2": 2, "L;4": 4}
"""Bits of grey, by Pillow's name for how a PNG stores it."""
_NO_DATA = 1e30
"""Floats beyond it stand for missing values, as in geographic rasters."""


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image as RGB; an RGB image without transparency is returned as it is."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep(image)
    if image.mode in _ALPHA or image.info.get("transparency") is not None:
        return _strips(image, _on_white)
    if image.mode == "LAB":
        lab = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return _strips(image, lambda strip: ImageCms.applyTransform(strip, lab) or strip)
    return image if image.mode == "RGB" else image.convert("RGB")


def scale_grey_key(image: Image.Image) -> None:
    """Scale the transparent grey of an opened PNG of 2 or 4 bits to the 8 bits that its pixels are decoded to.

    Pillow keeps it as it is written, and knows the bits until the image is loaded. What is scaled already stays.
    """
    key = image.info.get("transparency")
    bits = _KEYED_BITS.get(str(image.tile[0].args)) if isinstance(image, PngImageFile) and image.tile else None
    if bits is not None and isinstance(key, int):
        most = 2**bits - 1
        image.info["transparency"] = (key & most) * 255 // most


def _strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height:
        return convert(image)
    out = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        out.paste(convert(strip), (0, top))
    return out


def _on_white(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # Pillow reduces 16-bit samples to their high byte, and keeps the transparent colour as it is.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    unsigned = image.mode == "I" and bool(tags) and _number(tags.get(_SAMPLE_FORMAT, 1)) == 1
    low, high = _levels(image, tags, unsigned=unsigned)
    scale = 255.0 / (high - low) if high > low else 0.0
    key = image.info.get("transparency")
    out = Image.new("L", image.size)
    for top, values in _values(image, unsigned=unsigned):
        if image.mode.startswith("I;16") and (low, high) == (0.0, 65535.0):
            levels = (values.astype(np.uint16) >> 8).astype(np.uint8)  # as every reader of 16-bit images does
        else:
            scaled = (np.nan_to_num(values.astype(np.float64), posinf=high, neginf=low) - low) * scale
            levels = np.clip(scaled.round(), 0, 255).astype(np.uint8)
        if _number(tags.get(_PHOTOMETRIC, 1)) == 0:  # white is zero
            levels = 255 - levels
        if isinstance(key, int):
            levels = np.where(values == key, np.uint8(255), levels)
        out.paste(Image.fromarray(levels), (0, top))
    return out.convert("RGB")


def _levels(image: Image.Image, tags: dict[int, object], *, unsigned: bool) -> tuple[float, float]:
    """The values of black and white.

    Integers that are not negative hold as many bits as the file says or, if it says no more than the size of its
    samples, as their maximum needs: 8, 10, 12, 14, 15 or 16. So 12-bit data in 16-bit samples equal their 8-bit
    twin; a 16-bit picture darker than a 64th of white is taken for 10 bits and brightened. Larger integers, and those
    with negative values, reach to their highest value.
    """
    if image.mode == "F":
        return _float_levels(image)
    extremes = [(values.min(), values.max()) for _, values in _values(image, unsigned=unsigned)]
    low, high = float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))
    if low < 0:
        return _signed_levels(low, high)
    whites = [_number(tags.get(tag, 0)) for tag in (_MAX_SAMPLE, _LARGEST_SAMPLE)]
    bits = _number(tags.get(_BITS_PER_SAMPLE, 0))
    if bits not in (16, 32):
        whites.append(2.0**bits - 1)
    stated = [white for white in whites if white > 0]
    common = [2.0**bits - 1 for bits in (8, 10, 12, 14, 15, 16)]
    return 0.0, next((white for white in [*stated, *common] if white >= high), high)


def _signed_levels(low: float, high: float) -> tuple[float, float]:
    """0 is mid-grey if the samples reach about as far below it as above."""
    far = max(-low, high)
    return (-far, far) if min(-low, high) > far / 2 else (low, high)


def _float_levels(image: Image.Image) -> tuple[float, float]:
    """0 and 1 if all samples are between them; else where they begin, or 0 if that is near, and where they end.

    One in a thousand may lie outside at each end: a hot pixel does not make a picture black.
    """
    step = max(1, int((image.width * image.height / STRIP_PIXELS) ** 0.5))
    known = np.concatenate([values[::step, ::step].ravel() for _, values in _values(image, unsigned=False)])
    known = known[np.isfinite(known) & (np.abs(known) < _NO_DATA)].astype(np.float64)
    if not len(known) or (known.min() >= 0.0 and known.max() <= 1.0):
        return 0.0, 1.0
    low, high = (float(level) for level in np.percentile(known, (0.1, 99.9)))
    return _signed_levels(low, high) if low < 0.0 else (0.0 if low <= high / 2 else low, high)


def _values(image: Image.Image, *, unsigned: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Strips of the samples, each with its first row."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(image.height, top + rows))))
        yield top, values.view(np.uint32) if unsigned else values


def _number(value: object) -> float:
    """A tag's number; the first of several, 0 if there is none."""
    first = value[0] if isinstance(value, tuple) and value else value
    return float(first) if isinstance(first, int | float) else 0.0
