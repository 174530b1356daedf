"""Decode the bytes of image files to upright RGB: checked by their header first, and repaired if they are damaged."""

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import IFDRational

from llm2clip_search.encoders.damaged import (
    ENOUGH,
    Repair,
    TooLittleError,
    fill_rows,
    is_cut_jpeg,
    missing_rows,
    repair,
)
from llm2clip_search.encoders.decode_memory import MAX_PIXELS, MEMORY, OverLimitError, decoding_bytes
from llm2clip_search.encoders.image_types import HEAD_BYTES, UNKNOWN, describe, jxl_size, of_content, register_plugins
from llm2clip_search.encoders.packets import Packets, packets_of, raw_packets
from llm2clip_search.encoders.raw import RawFile, is_raw, opened_raw, raw_exif
from llm2clip_search.encoders.to_rgb import scale_grey_key, to_rgb
from llm2clip_search.errors import ImageError, first_line

_LIMIT = Lock()
_PROGRAMS = frozenset({"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR"})
"""Formats of Pillow that are no pixels, or that it has another program draw."""
_TURNED = frozenset({"TIFF", "JXL"})
"""Formats whose readers apply the orientation themselves."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of an EXIF orientation upright."""
_CUT = re.compile("truncated|end of file|broken data stream|beyond|bounds", re.IGNORECASE)
"""In messages of libraries about data that ends too early."""
_CODE = re.compile(r"\\x|b'|\w\(|object")
"""In messages that are about Python rather than about the file."""
_KEEPS_COLOURS = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "I;16"})
"""Modes whose conversion to RGB does not go from one colour space to another."""
_LARGEST_PROFILE = 4 << 20
"""Bytes; those of displays have a few thousand, those of printers up to three million."""
_SWAPPING = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))


@contextmanager
def _pillow_without_its_own_limit() -> Iterator[None]:
    """Disable Pillow's limit of 179 MP, a global that other code may rely on, while `open_image` applies its own."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image's header; pixels are not decoded.

    Raises:
        ImageError: stage ``header``, if it is not an image, or declares more than ``max_pixels`` pixels.
    """
    register_plugins()
    _check_size(jxl_size(data), max_pixels)
    try:
        with _pillow_without_its_own_limit():
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        head = data[:HEAD_BYTES]
        kind = of_content(head)
        hint = kind.hint if kind is not None and not kind.is_read else ""
        raise ImageError(describe(head), stage="header", hint=hint) from error
    except Exception as error:  # a format's parser may raise anything on a hostile header
        raise ImageError(f"its header is damaged{_because(error)}", stage="header") from error
    if image.format in _PROGRAMS:
        raise ImageError(describe(data[:HEAD_BYTES]), stage="header")
    _check_size(image.size, max_pixels)
    scale_grey_key(image)
    return image


def _check_size(size: tuple[int, int] | None, max_pixels: int) -> None:
    if size is not None and (pixels := size[0] * size[1]) > max_pixels:
        raise OverLimitError(
            f"declares {size[0]} x {size[1]} = {pixels:,} pixels, over the limit of {max_pixels:,}",
            stage="header",
            hint="Raise the limit with --max-pixels.",
        )


def _because(error: Exception) -> str:
    """What another library's error says, to follow a sentence; nothing if it is not a phrase."""
    text = first_line(error)
    if _CUT.search(text):
        return ": it is cut off or damaged"
    return f": {text}" if " " in text and not _CODE.search(text) else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A decoded image file."""

    rgb: Image.Image
    """Upright; of reduced size if that was allowed."""
    size: tuple[int, int]
    """Upright width and height that the file declares, in pixels."""
    format: str | None
    exif: Image.Exif
    damage: str | None = None
    """What is wrong with the file, if its picture could be read nevertheless."""
    packets: Packets = field(default_factory=Packets)
    """What else it says of the picture, not parsed."""
    profile: bytes = b""
    """ICC profile of the colours in `rgb`, or of the grey that they were; empty if the file has none that fits."""


@contextmanager
def reading(data: bytes, *, max_pixels: int = MAX_PIXELS, shortest: int | None = None) -> Iterator[Picture]:
    """Decode an image file to upright RGB: its first frame, with EXIF rotation applied.

    Transparency is laid on white, deep images are scaled to 8 bits (`to_rgb`), and a damaged file is repaired if enough
    of its picture is there (`damaged`). That of a RAW file is its embedded preview, if there is one. The picture counts
    towards the memory that all threads may use until the context is left.

    Args:
        max_pixels: larger images fail, by their header; memory is bounded in proportion (`decode_memory`).
        shortest: a JPEG is decoded at a reduced size whose shorter side has at least ``2 * shortest`` pixels, so that
            the resize that follows still has twice the detail it keeps.

    Raises:
        ImageError: stage ``header`` or ``decode``; the message is a sentence without the file's name.
    """
    with ExitStack() as held:
        if is_raw(data):
            yield _decode_raw(data, held, max_pixels, shortest)
            return
        try:
            picture = _decode(data, held, max_pixels, shortest)
        except OverLimitError:
            raise
        except ImageError as error:
            held.close()
            picture = _decode_repaired(data, error, held, max_pixels, shortest)
        yield picture


def _decode_raw(data: bytes, held: ExitStack, max_pixels: int, shortest: int | None) -> Picture:
    with opened_raw(data) as raw:
        _check_size(raw.size, max_pixels)
        exif = raw_exif(data)
        shown = _decode_preview(raw, held, max_pixels, shortest)
        packets = raw_packets(exif) if exif or shown is None else shown.packets
        if shown is not None:
            exif = exif if Base.Make in exif else shown.exif
            return replace(shown, size=raw.size, format="RAW", exif=exif, packets=packets)
        held.enter_context(MEMORY.hold(raw.developing_bytes, max_pixels=max_pixels))
        return Picture(rgb=raw.develop(), size=raw.size, format="RAW", exif=exif, packets=packets)


def _decode_preview(raw: RawFile, held: ExitStack, max_pixels: int, shortest: int | None) -> Picture | None:
    """The preview in a RAW file; None if there is none, or it is damaged, or too small."""
    data = raw.preview()
    with suppress(ImageError), ExitStack() as own:
        if data is None or not raw.is_enough((image := open_image(data, max_pixels=max_pixels)).size):
            return None
        turn = raw.preview_orientation(image.size, image.getexif().get(Base.Orientation))
        picture = _upright([image], own, max_pixels, shortest, orientation=turn)
        held.enter_context(own.pop_all())
        return picture
    return None


def _decode(data: bytes, held: ExitStack, max_pixels: int, shortest: int | None) -> Picture:
    image = open_image(data, max_pixels=max_pixels)
    if is_cut_jpeg(data):
        raise ImageError("cut off: it ends with zeros", stage="decode")
    return _upright([image], held, max_pixels, shortest)


def _decode_repaired(
    data: bytes, failed: ImageError, held: ExitStack, max_pixels: int, shortest: int | None
) -> Picture:
    tile: Any = None
    with suppress(ImageError, IndexError):
        opened: Any = open_image(data, max_pixels=max_pixels)
        tile = opened.tile[0]
    try:
        is_unknown = tile is None and describe(data[:HEAD_BYTES]) == UNKNOWN
        mended = repair(data, max_pixels=max_pixels, tile=tile, is_unknown=is_unknown)
        if mended is None:
            raise failed
        images = [open_image(version, max_pixels=max_pixels) for version in mended.versions]
        return _upright(images, held, max_pixels, shortest, repaired=mended)
    except TooLittleError as error:
        raise ImageError(str(error), stage=failed.stage) from failed
    except OverLimitError:
        raise
    except Exception as error:  # what was wrong at first says more than what is wrong with the repaired file
        raise failed from error


def _upright(
    images: list[Image.Image],
    held: ExitStack,
    max_pixels: int,
    shortest: int | None,
    *,
    repaired: Repair | None = None,
    orientation: int | None = None,
) -> Picture:
    """The picture of an opened image, or of the versions of a repaired one; ``orientation`` replaces that of EXIF."""
    image = images[0]
    size, damage = image.size, repaired.damage if repaired else ""
    # Pillow decodes a PNG to look for EXIF data behind its pixels, so these wait until its memory is held.
    early = None if image.format == "PNG" else _read_exif(image)
    if shortest is not None:
        for each in images:
            each.draft(None, (2 * shortest, 2 * shortest))
    needed = sum(decoding_bytes(each, full_size=size) for each in images)
    needed *= 1 if repaired is None else 2  # versions are compared, and rows are filled
    held.enter_context(MEMORY.hold(needed, max_pixels=max_pixels))
    try:
        loaded = [_load(each) for each in images]
        exif, stated, damaged_exif = early or _read_exif(image)
        turn = stated if orientation is None else orientation
        method = None if image.format in _TURNED else _TURNS.get(turn if isinstance(turn, int) else 1)
        rgb = to_rgb(image)
        if repaired is not None and not repaired.is_whole:
            is_jpeg = image.format in ("JPEG", "MPO")
            missing = missing_rows(images, jpeg=is_jpeg, interlaced=repaired.is_interlaced)
            share = 1.0 - float(missing.mean())
            if share < ENOUGH:
                raise TooLittleError(f"cut off or damaged: {share:.0%} of its rows can be read")
            if share < 1.0:
                damage = f"cut off or damaged: {share:.1%} of its rows are there"
                rgb = fill_rows(rgb, missing)
        if method is not None:
            rgb = rgb.transpose(method)
    except TooLittleError:
        raise
    except MemoryError as error:
        raise ImageError("decoding it takes more memory than there is", stage="decode") from error
    except Exception as error:  # codecs raise OSError, SyntaxError, struct.error, ValueError, ...
        raise ImageError(f"its pixels cannot be decoded{_because(error)}", stage="decode") from error
    if method in _SWAPPING:
        size = size[1], size[0]
    damage = damage or ("damaged EXIF" if damaged_exif or not all(loaded) else "")
    return Picture(
        rgb=rgb,
        size=size,
        format=image.format,
        exif=exif,
        damage=damage or None,
        packets=packets_of(image),
        profile=_profile(image),
    )


def _read_exif(image: Image.Image) -> tuple[Image.Exif, object, bool]:
    """EXIF data, the orientation that they state, and whether they are damaged; what cannot be read is empty."""
    orientation: object = None
    try:
        exif = image.getexif()
        orientation = exif.get(Base.Orientation)
        is_lost = not exif and len(image.info.get("exif", b"")) > len(b"Exif\x00\x00")
        is_undefined = any(isinstance(value, IFDRational) and not value.denominator for value in exif.values())
    except Exception:  # Pillow raises many types on damaged EXIF
        return Image.Exif(), orientation, True
    return exif, orientation, is_lost or is_undefined


def _profile(image: Image.Image) -> bytes:
    """The ICC profile of an image whose samples became RGB unchanged."""
    found = image.info.get("icc_profile")
    if image.mode not in _KEEPS_COLOURS or not isinstance(found, bytes):
        return b""
    return found if len(found) <= _LARGEST_PROFILE else b""


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image that was opened elsewhere, as upright RGB.

    Raises:
        ImageError: stage ``header`` or ``decode``.
    """
    with ExitStack() as held:
        return _upright([image], held, MAX_PIXELS, None).rgb


def _load(image: Image.Image) -> bool:
    """Decode an image's pixels; False if only what Pillow does with a TIFF's EXIF data afterwards failed."""
    large = image.format == "TIFF" and image.width * image.height > 50_000_000  # whose size Pillow checks again
    try:
        with _pillow_without_its_own_limit() if large else nullcontext():
            image.load()
    except Exception as error:
        if isinstance(error, OSError | MemoryError) or image.format != "TIFF" or getattr(image, "tile", None):
            raise
        return False
    return True
