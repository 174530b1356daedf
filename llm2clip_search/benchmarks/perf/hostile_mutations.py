"""Files that somebody has tampered with: by their parts where a format has parts, and by bytes otherwise.

A format that is a sequence of parts (segments, chunks, boxes, blocks, members) is taken apart; parts are dropped,
repeated, exchanged, resized or taken from other files, their numbers replaced by extreme ones, and lengths and
checksums are made right again, so that what is wrong is found behind the first check and not by it.
"""

import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np

Parts = list[bytes]

_EXTREME = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0xFFFFFF),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF),
)
"""Numbers at which a computation may overflow, a loop may not end, or an allocation be huge."""
MOST_BYTES = 4 << 20
"""A file grows by repeated parts up to this."""


def mutated(data: bytes, extension: str, others: Sequence[bytes], generator: np.random.Generator) -> bytes:
    """One tampered file.

    Args:
        others: files of which parts may be put into it.
    """
    cut = _CUTTERS.get(extension)
    if cut is not None and generator.random() < 0.7:
        parts = cut(data)
        for _ in range(int(generator.integers(1, 4))):
            parts = _change_parts(parts, cut(others[int(generator.integers(len(others)))]), generator)
        data = _JOINERS.get(extension, _whole)(parts, generator)
    if cut is None or generator.random() < 0.4:
        for _ in range(int(generator.integers(1, 6))):
            data = _change_bytes(data, others, generator)
    return data[:MOST_BYTES]


def _change_parts(parts: Parts, foreign: Parts, generator: np.random.Generator) -> Parts:
    """Parts with one change."""
    if not parts:
        return parts
    place = int(generator.integers(len(parts)))
    part, out = parts[place], list(parts)
    kind = int(generator.integers(7))
    if kind == 0:
        del out[place]
    elif kind == 1:
        times = int(generator.choice([1, 2, 50, 2000]))
        out[place:place] = [part] * min(times, 1 + MOST_BYTES // max(1, len(part)))
    elif kind == 2:
        other = int(generator.integers(len(parts)))
        out[place], out[other] = out[other], out[place]
    elif kind == 3:
        out[place] = _with_number(part, generator)
    elif kind == 4:
        out[place] = part[: int(generator.integers(len(part) + 1))]
    elif kind == 5 and foreign:
        out.insert(place, foreign[int(generator.integers(len(foreign)))])
    else:
        out[place] = part + bytes(int(generator.choice([1, 100, 70_000])))
    return out


def _change_bytes(data: bytes, others: Sequence[bytes], generator: np.random.Generator) -> bytes:
    """A file with one change that knows nothing of its format; most are near its beginning, where headers are."""
    if not data:
        return data
    within = min(len(data), int(generator.choice([32, 200, 2000, MOST_BYTES])))
    place = int(generator.integers(within))
    before, behind, some = data[:place], data[place:], int(generator.integers(1, 200))
    kind = int(generator.integers(7))
    if kind <= 1:
        behind = bytes([int(generator.integers(256))]) + behind[1:]
    elif kind == 2:
        behind = _with_number(behind, generator)
    elif kind == 3:
        before, behind = data[: int(generator.integers(len(data)))], b""
    elif kind == 4:
        behind = behind[some:]
    elif kind == 5:
        behind = behind[:some] * int(generator.choice([1, 3, 300])) + behind
    else:
        behind = others[int(generator.integers(len(others)))]  # a file that is two
    return before + behind


def _with_number(data: bytes, generator: np.random.Generator) -> bytes:
    """An extreme number somewhere in a part, near its beginning more often."""
    size = int(generator.choice([1, 2, 4, 8]))
    place = int(generator.integers(max(1, min(len(data), int(generator.choice([16, 64, 1 << 20]))))))
    number = int(generator.choice(_EXTREME)) % (1 << 8 * size)
    return data[:place] + number.to_bytes(size, str(generator.choice(["little", "big"]))) + data[place + size :]  # type: ignore[arg-type]


def _jpeg_parts(data: bytes) -> Parts:
    """Segments with their markers; what follows the start of a scan is one part up to the next marker."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + max(2, size)
        parts.append(data[at:end])
        at = end
        if parts[-1][1] == 0xDA:
            end = at
            while 0 <= (end := data.find(b"\xff", end)) < len(data) - 1 and (
                data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7
            ):
                end += 2
            end = len(data) if end < 0 else end
            parts.append(data[at:end])
            at = end
    return [*parts, data[at:]]


def _png_parts(data: bytes) -> Parts:
    """Chunks as their kind and body, without length and checksum; the signature is left out."""
    parts, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at + 4 : at + 8 + size])
        at += 12 + size
    return parts


def _png(parts: Parts, generator: np.random.Generator) -> bytes:
    """Chunks as a file, with right checksums and lengths; seldom a wrong length."""
    out = [b"\x89PNG\r\n\x1a\n"]
    for part in parts:
        size = len(part) - 4 if generator.random() > 0.02 else int(generator.choice(_EXTREME)) % (1 << 32)
        out.append(struct.pack(">I", max(0, size)) + part + struct.pack(">I", zlib.crc32(part)))
    return b"".join(out)


def _riff_parts(data: bytes) -> Parts:
    """Chunks of a WebP with their headers."""
    parts, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        parts.append(data[at:end])
        at = end
    return parts


def _riff(parts: Parts, generator: np.random.Generator) -> bytes:
    body = b"WEBP" + b"".join(parts)
    size = len(body) if generator.random() > 0.05 else int(generator.choice(_EXTREME)) % (1 << 32)
    return b"RIFF" + struct.pack("<I", size) + body


def _gif_parts(data: bytes) -> Parts:
    """The header with its palette, then blocks; an image is one part, and so is an extension."""
    end = 13 + (3 << ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    parts, at = [data[:end]], end
    while at < len(data) and data[at] in (0x21, 0x2C):
        end = at + (2 if data[at] == 0x21 else 11)
        if data[at] == 0x2C and at + 9 < len(data) and data[at + 9] & 0x80:
            end += 3 << ((data[at + 9] & 7) + 1)
        while end < len(data) and data[end]:
            end += 1 + data[end]
        parts.append(data[at : end + 1])
        at = end + 1
    return [*parts, data[at:]]


def _box_parts(data: bytes) -> Parts:
    """Boxes of an ISO file (HEIC, AVIF, JPEG 2000, MP4); those of a ``meta`` by themselves."""
    parts, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"meta" and size > 12:
            parts.append(data[at : at + 12])
            at += 12
            continue
        end = at + size if size >= 8 else len(data)
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def _tiff_parts(data: bytes) -> Parts:
    """The header, the entries of the first directory, and what lies between and behind them."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 10:
        return [data]
    [at] = struct.unpack(order + "I", data[4:8])
    if at + 2 > len(data):
        return [data]
    [count] = struct.unpack(order + "H", data[at : at + 2])
    entries = [data[at + 2 + 12 * n : at + 14 + 12 * n] for n in range(min(count, 100))]
    return [data[: at + 2], *entries, data[at + 2 + 12 * len(entries) :]]


def _tar_parts(data: bytes) -> Parts:
    return [data[at : at + 512] for at in range(0, len(data), 512)]


def _tar(parts: Parts, generator: np.random.Generator) -> bytes:
    """Blocks as an archive; headers, which the word ``ustar`` shows, get a right checksum, most of the time."""
    out = []
    for part in parts:
        block = part.ljust(512, b"\0")
        if block[257:262] == b"ustar" and generator.random() < 0.9:
            total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
            block = block[:148] + f"{total:06o}\0 ".encode() + block[156:]
        out.append(block)
    return b"".join(out)


def _line_parts(data: bytes) -> Parts:
    return data.splitlines(keepends=True)


def _pdf_parts(data: bytes) -> Parts:
    parts = data.split(b"endobj")
    return [*(part + b"endobj" for part in parts[:-1]), parts[-1]]


def _whole(parts: Parts, generator: np.random.Generator) -> bytes:
    return b"".join(parts)


_CUTTERS: dict[str, Callable[[bytes], Parts]] = {
    "jpg": _jpeg_parts,
    "png": _png_parts,
    "webp": _riff_parts,
    "gif": _gif_parts,
    "tif": _tiff_parts,
    **dict.fromkeys(("heic", "avif", "jp2", "mp4"), _box_parts),
    "tar": _tar_parts,
    "pdf": _pdf_parts,
    **dict.fromkeys(("csv", "jsonl", "txt"), _line_parts),
}
"""How a file of an extension is taken apart; others are changed byte by byte."""
_JOINERS: dict[str, Callable[[Parts, np.random.Generator], bytes]] = {"png": _png, "webp": _riff, "tar": _tar}
