"""One file to what the index stores of it: content hash, EXIF facts, and the tower's pixels."""

import contextlib
import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from llm2clip_search.corpora.folder import FoundFile
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.images import decode_upright, open_image, to_pixels
from llm2clip_search.errors import ImageError

_SWAPPED = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """Metadata read from an image's header."""

    width: int
    """Pixels, upright."""
    height: int
    format: str | None
    taken: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


@dataclass(kw_only=True, slots=True)
class Decoded:
    """A file after its thread: hashed, and decoded unless its content is known or it failed."""

    file: FoundFile
    content_hash: str = ""
    facts: ImageFacts | None = None
    pixels: np.ndarray | None = None
    """uint8 ``[height, width, 3]`` for the vision tower."""
    error: ImageError | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Thread time by stage: read, decode."""


def decode_file(
    file: FoundFile, preprocess: PreprocessConfig, *, max_pixels: int, known: Callable[[str], bool]
) -> Decoded:
    """Read, hash and decode one file; a failure is a result, never an exception.

    A file whose content hash is ``known`` is not decoded: its vector and facts are in the index.
    """
    out = Decoded(file=file)
    started = time.perf_counter()
    try:
        try:
            data = file.path.read_bytes()
        except OSError as error:
            raise ImageError(error.strerror or str(error), stage="read") from error
        out.content_hash = hashlib.blake2b(data, digest_size=16).hexdigest()
        out.seconds["read"] = time.perf_counter() - started
        if not data:
            raise ImageError("the file is empty", stage="header")
        if known(out.content_hash):
            return out
        started = time.perf_counter()
        with open_image(io.BytesIO(data), max_pixels=max_pixels) as image:
            facts = read_facts(image)
            pixels = to_pixels(decode_upright(image, shortest=preprocess.shortest), preprocess)
        out.facts, out.pixels = facts, pixels
        out.seconds["decode"] = time.perf_counter() - started
    except ImageError as error:
        out.error = error
    return out


def read_facts(image: Image.Image) -> ImageFacts:
    """Size and EXIF of an opened image; damaged EXIF leaves its columns empty."""
    width, height, kind = image.width, image.height, image.format
    exif: Any = {}
    details: Any = {}
    position: Any = {}
    with contextlib.suppress(Exception):  # EXIF comes from strangers; Pillow raises what its parser meets
        exif = image.getexif()
        details, position = exif.get_ifd(IFD.Exif), exif.get_ifd(IFD.GPSInfo)
    if exif.get(Base.Orientation) in _SWAPPED:
        width, height = height, width
    camera = " ".join(str(part).strip(" \x00") for part in (exif.get(Base.Make), exif.get(Base.Model)) if part)
    return ImageFacts(
        width=width,
        height=height,
        format=kind,
        taken=_time(details.get(Base.DateTimeOriginal) or exif.get(Base.DateTime)),
        camera=_text(camera),
        latitude=_degrees(position.get(GPS.GPSLatitude), position.get(GPS.GPSLatitudeRef), limit=90.0),
        longitude=_degrees(position.get(GPS.GPSLongitude), position.get(GPS.GPSLongitudeRef), limit=180.0),
    )


def _text(value: str) -> str | None:
    cleaned = value.encode("utf-8", "replace").decode("utf-8").strip()
    return cleaned or None


def _time(value: object) -> datetime | None:
    try:
        return datetime.strptime(str(value).strip(" \x00")[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None


def _degrees(parts: Any, reference: Any, *, limit: float) -> float | None:
    """Degrees, minutes, seconds and a hemisphere letter as signed degrees; None if not a place on earth."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60.0 + seconds / 3600.0
    if not 0.0 <= value <= limit:
        return None
    letter = reference.decode("ascii", "replace") if isinstance(reference, bytes) else str(reference)
    return -value if letter[:1] in ("S", "W") else value
