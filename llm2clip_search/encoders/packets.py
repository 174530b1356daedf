"""What cameras and photo programs write into image files about the picture: EXIF data, XMP packets, IPTC records."""

import io
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, IptcImagePlugin
from PIL.ExifTags import IFD

from llm2clip_search.base.files import open_regular
from llm2clip_search.encoders.image_types import register_plugins
from llm2clip_search.encoders.png_chunks import png_chunks, png_file
from llm2clip_search.encoders.raw import is_raw, opened_raw
from llm2clip_search.errors import ImageError

_XMP, _PNG_XMP = 700, "XML:com.adobe.xmp"
_PNG_KEY, _PNG_EXIF = _PNG_XMP.encode() + b"\0", b"eXIf"
_PNG_METADATA = (b"iTXt", b"tEXt", b"zTXt", _PNG_EXIF)
_SMALL_HEADER = b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
_LARGEST_TEXT = 16 << 20
"""Bytes of a chunk of text that are read; XMP packets have some thousands."""
_MOST_CHUNKS = 1 << 16
"""Chunks of a PNG that are looked at: half a gigabyte of pixels in chunks of 8 kB, as libpng writes them."""
_LARGEST_RAW = 1 << 30
"""Bytes of a RAW file that are read; those of cameras have a tenth of it."""


@dataclass(frozen=True, slots=True)
class Packets:
    """The packets of a file; false if it has none."""

    xmp: bytes = b""
    iptc: Mapping[tuple[int, int], Any] = field(default_factory=dict)
    """Values by record and data set: bytes, or a list of them where one is repeated."""

    def __bool__(self) -> bool:
        return bool(self.xmp or self.iptc)


def packets_of(image: Image.Image) -> Packets:
    """The packets of an image that Pillow has opened; none if they are damaged."""
    xmp: Any = image.info.get("xmp") or image.info.get(_PNG_XMP) or b""
    if not xmp:
        with suppress(Exception):
            xmp = getattr(image, "tag_v2", {}).get(_XMP, b"")
    iptc: Any = None
    with suppress(Exception):  # its parser raises SyntaxError, IndexError and others on damaged records
        iptc = IptcImagePlugin.getiptcinfo(image)  # type: ignore[arg-type]
    return Packets(_bytes(xmp), iptc or {})


def read_metadata(source: bytes | Path) -> tuple[Packets, Image.Exif]:
    """The packets and the EXIF data of an image file, without its pixels.

    Those of a RAW file that is no TIFF file are its preview's. What is damaged is empty.
    """
    register_plugins()
    with (
        suppress(OSError, ImageError),
        io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file,
    ):
        with suppress(Exception), Image.open(file) as image:
            return _png_metadata(file) if image.format == "PNG" else (packets_of(image), _exif_of(image))
        file.seek(0)
        if is_raw(data := file.read()):
            with opened_raw(data) as raw:
                return read_metadata(raw.preview() or b"")
    return Packets(), Image.Exif()


def _exif_of(image: Image.Image) -> Image.Exif:
    """EXIF data that can be read when the file is closed."""
    with suppress(Exception):  # Pillow raises many types on damaged EXIF
        exif = image.getexif()
        for part in (IFD.Exif, IFD.GPSInfo):
            exif.get_ifd(part)
        return exif
    return Image.Exif()


def _png_metadata(file: BinaryIO) -> tuple[Packets, Image.Exif]:
    """Those of an open PNG, in which they may follow the pixels; of several, the last counts."""
    found: dict[bytes, bytes] = {}
    is_behind = False
    for kind, length in islice(png_chunks(file), _MOST_CHUNKS):
        if kind == b"IEND" or (is_behind and kind == b"fcTL"):  # where Pillow ends when it decodes the pixels
            break
        is_behind |= kind == b"IDAT"
        if length <= _LARGEST_TEXT and kind in _PNG_METADATA:
            body = file.read(length)
            if kind == _PNG_EXIF or body.startswith(_PNG_KEY):
                found[kind] = body
    # Pillow parses them, as it does where it decodes the pixels.
    with Image.open(io.BytesIO(png_file([_SMALL_HEADER, *found.items(), (b"IDAT", b"")]))) as image:
        return packets_of(image), _exif_of(image) if _PNG_EXIF in found else Image.Exif()


def raw_packets(exif: Image.Exif) -> Packets:
    """The packets of a RAW file, by its EXIF data."""
    return Packets(_bytes(exif.get(_XMP, b"")))


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return bytes(value) if isinstance(value, bytes | tuple) else b""
