"""RAW files of cameras: how to tell them, their EXIF data, their embedded preview and their own pixels (LibRaw)."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from PIL import Image
from PIL.ExifTags import Base

from llm2clip_search.encoders.image_types import CAMERA_RAW, HEAD_BYTES, of_content
from llm2clip_search.errors import ImageError, first_line

_TIFF = (b"II*\x00", b"MM\x00*")
_DNG_VERSION, _SUB_IFDS = 50706, 330
_MOSAICS = frozenset({32803, 34892})
"""PhotometricInterpretation of a colour filter array, and of sensor values that have three colours each."""
_CODECS = frozenset({32767, 34713, 65535, *range(32769, 32773)})
"""Compressions of Sony, Nikon, Pentax and Samsung that no other TIFF file has."""
_ORIENTATIONS = {0: 1, 1: 2, 3: 3, 2: 4, 4: 5, 6: 6, 7: 7, 5: 8}
"""EXIF orientations by LibRaw's flip."""
_ENOUGH = 1024
"""A preview with a side of this many pixels is good for any tower; a smaller one must have half of the sensor's."""
_BYTES_PER_PIXEL = 12
"""What LibRaw takes at most for each pixel of the sensor to develop an image of half its width and height."""


def is_raw(data: bytes) -> bool:
    """True for a RAW file. Most are TIFF files, in which Pillow would find no more than a thumbnail."""
    return of_content(data[:HEAD_BYTES]) is CAMERA_RAW or _is_raw_tiff(data)


def _is_raw_tiff(data: bytes) -> bool:
    if data[:4] not in _TIFF:
        return False
    order = "<" if data[:2] == b"II" else ">"
    with suppress(struct.error):
        first = struct.unpack_from(f"{order}I", data, 4)[0]
        own = _directory(data, order, first)
        subs = [tags for offset in own.get(_SUB_IFDS, ())[:16] if (tags := _directory(data, order, offset))]
        return _DNG_VERSION in own or any(
            _MOSAICS.intersection(tags.get(Base.PhotometricInterpretation, ()))
            or _CODECS.intersection(tags.get(Base.Compression, ()))
            for tags in (own, *subs)
        )
    return False


def _directory(data: bytes, order: str, offset: int) -> dict[int, tuple[int, ...]]:
    """Tags of a TIFF directory with their values: those of bytes and whole numbers, none for other types.

    Raises:
        struct.error: it lies outside of the file.
    """
    found = dict[int, tuple[int, ...]]()
    for number in range(struct.unpack_from(f"{order}H", data, offset)[0]):
        at = offset + 2 + 12 * number
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
        code = {1: "B", 3: "H", 4: "I", 13: "I"}.get(kind, "")
        values = f"{order}{min(count, 64)}{code}" if code else order
        if struct.calcsize(values) > 4:
            at = struct.unpack_from(f"{order}I", data, at + 8)[0] - 8
        found[tag] = struct.unpack_from(values, data, at + 8)
    return found


def raw_exif(data: bytes) -> Image.Exif:
    """EXIF data of a RAW file that is a TIFF file; empty for others, whose preview has it, and if it is damaged."""
    exif = Image.Exif()
    try:
        if data[:4] in _TIFF:
            exif.load(data)
    except Exception:  # Pillow raises many types on damaged EXIF
        return Image.Exif()
    return exif


class RawFile:
    """An open RAW file."""

    def __init__(self, raw: Any) -> None:
        """``raw``: a ``rawpy.RawPy``."""
        self._raw = raw
        sizes = raw.sizes
        self.orientation = _ORIENTATIONS.get(sizes.flip, 1)
        """Of the sensor's pixels, as EXIF has it."""
        swaps = self.orientation >= 5
        self.size: tuple[int, int] = (sizes.height, sizes.width) if swaps else (sizes.width, sizes.height)
        """Upright width and height, in pixels."""
        self.developing_bytes = _BYTES_PER_PIXEL * sizes.raw_width * sizes.raw_height
        """Upper estimate of the memory that `develop` takes."""

    def preview(self) -> bytes | None:
        """The largest preview in the file as JPEG or PPM; None if there is none that can be read.

        LibRaw gives a JPEG that has no EXIF data those that it has found in the file.
        """
        import rawpy

        try:
            found = self._raw.extract_thumb()
        except (rawpy.LibRawError, rawpy.NotSupportedError):
            return None
        if found.format == rawpy.ThumbFormat.JPEG:
            return bytes(found.data)
        out = io.BytesIO()
        Image.fromarray(found.data).save(out, "PPM")
        return out.getvalue()

    def is_enough(self, size: tuple[int, int]) -> bool:
        """True if a preview of this size can stand for the picture."""
        return max(size) >= min(_ENOUGH, max(self.size) // 2)

    def preview_orientation(self, size: tuple[int, int], own: int | None) -> int:
        """How a preview has to be turned: as it says itself, else as the sensor's pixels, unless it is upright already.

        What its shape contradicts is not believed: some cameras turn the preview and leave the mark.

        Args:
            size: width and height of the preview.
            own: the orientation that the preview's own EXIF data has.
        """

        def fits(orientation: int) -> bool:
            width, height = size if orientation < 5 else size[::-1]
            return (width - height) * (self.size[0] - self.size[1]) >= 0

        return next((each for each in (own, self.orientation, 1) if each is not None and fits(each)), 1)

    def develop(self) -> Image.Image:
        """The sensor's pixels as upright RGB of half the width and height.

        Raises:
            ImageError: stage ``decode``.
        """
        try:
            return Image.fromarray(self._raw.postprocess(half_size=True, use_camera_wb=True))
        except Exception as error:
            raise ImageError("its pixels cannot be developed: it is cut off or damaged", stage="decode") from error


@contextmanager
def opened_raw(data: bytes) -> Iterator[RawFile]:
    """A RAW file, until the context is left.

    Raises:
        ImageError: stage ``header``, if it is damaged, of a camera that LibRaw does not know, or the extra is missing.
    """
    if find_spec("rawpy") is None:
        raise ImageError(f"a {CAMERA_RAW.name} image, which {CAMERA_RAW.lack}", stage="header", hint=CAMERA_RAW.hint)
    import rawpy

    try:
        raw = rawpy.imread(io.BytesIO(data))
    except Exception as error:
        reason = error.args[0] if error.args else error
        text = reason.decode() if isinstance(reason, bytes) else first_line(error)  # LibRaw's messages are bytes
        what = f"a damaged {CAMERA_RAW.name} image, or one that LibRaw does not know"
        raise ImageError(f"{what}: {text}", stage="header") from error
    with raw:
        yield RawFile(raw)
