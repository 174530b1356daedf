"""Image files of any format as small pictures that every browser shows."""

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class PictureSize:
    """A box that pictures are fitted into, never enlarged, and how they are written."""

    name: str
    width: int
    """Pixels."""
    height: int
    media_type: str


THUMBNAILS = {
    width: PictureSize(name=str(width), width=width, height=4 * width, media_type="image/webp")
    for width in (160, 320, 640, 1280)
}
"""By width. A grid has columns, so that a tall picture, such as a page of a comic, may be four times as high."""
PREVIEW = PictureSize(name="preview", width=2048, height=2048, media_type="image/jpeg")
"""JPEG, because a WebP of that size takes ten times as long to write."""
_SAVED = {"image/webp": ("WEBP", {"quality": 80, "method": 1}), "image/jpeg": ("JPEG", {"quality": 87})}
"""WebP's method 4, the default, takes twice the time for files that are a tenth smaller."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A picture as it is served."""

    data: bytes
    media_type: str
    tag: str
    """Names its content, to be asked for again."""


def render(data: bytes, size: PictureSize, *, tag: str, max_pixels: int | None = None) -> Rendered:
    """An image file as a picture of some size: upright, in sRGB, without any metadata.

    Args:
        max_pixels: larger images are refused by their header; None is the limit of indexing.

    Raises:
        ImageError: it cannot be decoded, or is too large.
    """
    from llm2clip_search.encoders.images import MAX_PIXELS, reading

    # The shorter side of what is shown is at most the width of the box; a JPEG is decoded with that much detail.
    with reading(data, max_pixels=max_pixels or MAX_PIXELS, shortest=size.width // 2) as picture:
        small = in_srgb(fitted(picture.rgb, size), picture.profile)
    small.info = {}
    kind, options = _SAVED[size.media_type]
    out = io.BytesIO()
    small.save(out, kind, **options)
    return Rendered(data=out.getvalue(), media_type=size.media_type, tag=tag)


def fitted(image: "Image.Image", size: PictureSize) -> "Image.Image":
    """An image reduced to fit into a box."""
    from PIL import Image

    scale = min(1.0, size.width / image.width, size.height / image.height)
    fits = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    # Boxes of whole pixels first, to twice what is wanted. Lanczos takes twice the time for no visible difference.
    return image.resize(fits, Image.Resampling.HAMMING, reducing_gap=2.0) if fits != image.size else image


def in_srgb(image: "Image.Image", profile: bytes) -> "Image.Image":
    """An RGB image whose colours are those of an ICC profile, in sRGB; as it is if the profile is damaged."""
    if not profile:
        return image
    from PIL import ImageCms

    with suppress(Exception):  # LittleCMS refuses what it does not like, in many ways
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        given = image.convert("L") if space == "GRAY" else image
        if space in ("RGB", "GRAY"):
            target = ImageCms.createProfile("sRGB")
            transform = ImageCms.buildTransform(source, target, given.mode, "RGB")
            return ImageCms.applyTransform(given, transform) or image
    return image
