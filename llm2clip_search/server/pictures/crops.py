"""A part of a picture as a picture to search with."""

import io
from collections.abc import Sequence

from llm2clip_search.server.problems import Problem

_DETAIL = 512
"""Pixels of the shorter side of a part, if the picture has them: as much as vision towers read."""


def crop(data: bytes, box: Sequence[float], *, max_pixels: int | None = None) -> bytes:
    """A part of an image file, as the content of an image file.

    Args:
        box: left, top, right and bottom as fractions of the upright picture.

    Raises:
        Problem: ``bad-request`` if the box is empty.
        ImageError: the file cannot be decoded, or is larger than ``max_pixels``.
    """
    from llm2clip_search.encoders.images import MAX_PIXELS, reading

    left, top, right, bottom = box
    if not 0 <= left < right <= 1 or not 0 <= top < bottom <= 1:
        raise Problem("bad-request", "A crop is left, top, right and bottom, from 0 to 1.", parameter="crop")
    shortest = int(_DETAIL / min(right - left, bottom - top)) // 2 + 1
    with reading(data, max_pixels=max_pixels or MAX_PIXELS, shortest=shortest) as picture:
        width, height = picture.rgb.size
        x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
        sides = max(x + 1, round(right * width)), max(y + 1, round(bottom * height))
        part = picture.rgb.crop((x, y, *sides))
    out = io.BytesIO()
    part.save(out, "PPM")
    return out.getvalue()
