"""RAW files that a test makes itself: DNG files with a Bayer mosaic and, if asked, a JPEG preview."""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED_RATIONAL = 1, 2, 3, 4, 5, 10
_CODES = {BYTE: "B", SHORT: "H", LONG: "I", RATIONAL: "II", SIGNED_RATIONAL: "ii"}
_MATRIX = (1, 0, 0, 0, 1, 0, 0, 0, 1)
Tags = dict[int, tuple[int, Any]]


def jpeg(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, **options)
    return out.getvalue()


def dng(
    image: Image.Image,
    *,
    preview: bytes | None = None,
    orientation: int = 1,
    xmp: bytes = b"",
    taken: str = "2024:05:06 07:08:09",
) -> bytes:
    """A DNG file: the image as 16-bit Bayer mosaic (RGGB), a preview beside it, and EXIF data.

    Args:
        image: as the sensor has it: not turned by ``orientation``; sides are even.
        preview: a JPEG file; its tags say what Adobe's converter says.
    """
    rgb = (np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0) ** 2.2 * 65535
    mosaic = rgb[..., 1].astype("<u2")
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = rgb[0::2, 0::2, 0], rgb[1::2, 1::2, 2]
    pixels = mosaic.tobytes()
    body = bytearray(b"II*\x00\x00\x00\x00\x00")

    def put(data: bytes) -> int:
        body.extend(b"\x00" * (len(body) % 2))
        body.extend(data)
        return len(body) - len(data)

    def directory(tags: Tags) -> int:
        entries = []
        for tag, (kind, value) in sorted(tags.items()):
            data, count = _packed(kind, value)
            field = data.ljust(4, b"\x00") if len(data) <= 4 else struct.pack("<I", put(data))
            entries.append(struct.pack("<HHI", tag, kind, count) + field)
        return put(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))

    mosaic_tags: Tags = {
        254: (LONG, 0),
        256: (LONG, image.width),
        257: (LONG, image.height),
        258: (SHORT, 16),
        259: (SHORT, 1),
        262: (SHORT, 32803),
        273: (LONG, put(pixels)),
        277: (SHORT, 1),
        278: (LONG, image.height),
        279: (LONG, len(pixels)),
        33421: (SHORT, (2, 2)),
        33422: (BYTE, (0, 1, 1, 2)),
        50717: (LONG, 65535),
    }
    exif: Tags = {36867: (ASCII, taken)}
    gps: Tags = {
        1: (ASCII, "N"),
        2: (RATIONAL, (52, 1, 30, 1, 0, 1)),
        3: (ASCII, "E"),
        4: (RATIONAL, (13, 1, 15, 1, 0, 1)),
    }
    first: Tags = {
        271: (ASCII, "Testmaker"),
        272: (ASCII, "Model 1"),
        274: (SHORT, orientation),
        34665: (LONG, directory(exif)),
        34853: (LONG, directory(gps)),
        50706: (BYTE, (1, 4, 0, 0)),
        50708: (ASCII, "Testmaker Model 1"),
        50721: (SIGNED_RATIONAL, tuple(part for number in _MATRIX for part in (number, 1))),
        50728: (RATIONAL, (1, 1, 1, 1, 1, 1)),
    }
    if xmp:
        first[700] = (BYTE, tuple(xmp))
    if preview is None:
        first |= mosaic_tags
    else:
        shown = Image.open(io.BytesIO(preview))
        first |= {
            254: (LONG, 1),
            256: (LONG, shown.width),
            257: (LONG, shown.height),
            258: (SHORT, (8, 8, 8)),
            259: (SHORT, 7),
            262: (SHORT, 6),
            273: (LONG, put(preview)),
            277: (SHORT, 3),
            278: (LONG, shown.height),
            279: (LONG, len(preview)),
            330: (LONG, directory(mosaic_tags)),
        }
    struct.pack_into("<I", body, 4, directory(first))
    return bytes(body)


def _packed(kind: int, value: Any) -> tuple[bytes, int]:
    if kind == ASCII:
        data = value.encode() + b"\x00"
        return data, len(data)
    values = value if isinstance(value, tuple) else (value,)
    count = len(values) // len(_CODES[kind])
    return struct.pack("<" + _CODES[kind] * count, *values), count
