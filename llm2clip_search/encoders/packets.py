"""What photo programs write into image files about the picture: XMP packets and IPTC records, as bytes."""

import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, IptcImagePlugin

from llm2clip_search.base.files import open_regular
from llm2clip_search.encoders.image_types import register_plugins
from llm2clip_search.encoders.raw import is_raw, opened_raw
from llm2clip_search.errors import ImageError

_XMP, _PNG_XMP = 700, "XML:com.adobe.xmp"
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


def read_packets(source: bytes | Path) -> Packets:
    """The packets of an image file, by its header; of a RAW file that is no TIFF file, those of its preview."""
    register_plugins()
    with (
        suppress(OSError, ImageError),
        io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file,
    ):
        with suppress(Exception), Image.open(file) as image:
            return packets_of(image)
        file.seek(0)
        if is_raw(data := file.read()):
            with opened_raw(data) as raw:
                return read_packets(raw.preview() or b"")
    return Packets()


def _opened(source: bytes | Path) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)


def raw_packets(exif: Image.Exif) -> Packets:
    """The packets of a RAW file, by its EXIF data."""
    return Packets(_bytes(exif.get(_XMP, b"")))


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return bytes(value) if isinstance(value, bytes | tuple) else b""
