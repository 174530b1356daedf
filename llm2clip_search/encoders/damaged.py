"""Repairs of damaged image files, as bytes: what is sound is made readable, and what is missing can be told.

Pillow's switch for truncated files is global to the process, and other threads would decode under it. So the bytes are
repaired instead: missing data is replaced by padding, and the rows that are made of padding are found afterwards. With
`ENOUGH` of the rows, CLIP embeddings keep a cosine of at least 0.95 to that of the whole picture (100 photographs of
Flickr8k with the model ``nano``: lowest 0.953, median 0.988); with 0.85 an eighth of them fall below.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from llm2clip_search.encoders.png_chunks import PNG_MARK, png_chunks, png_file

ENOUGH = 0.9
"""Share of rows that a file must hold for its picture to be indexed."""

_KEPT = (b"PLTE", b"tRNS", b"eXIf")
"""PNG chunks that matter to the pixels or their orientation, beside IHDR and IDAT."""
_JUNK_BYTES = 1 << 16
"""An image is looked for within this many bytes."""
_GREY = 128
"""Level of the pixels that JPEG decoders give for missing data."""
_LAST_BYTES = "its last bytes are missing"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """A readable file made of a damaged one."""

    versions: tuple[bytes, ...]
    """One file, or two that differ in the pixels that the damaged file lacks."""
    damage: str
    """What was wrong with the file if no rows are missing; empty if it was sound."""
    is_whole: bool = False
    """Whether its pixels are known to be all there, so that none is looked for by the colour of padding."""
    is_interlaced: bool = False
    """Whether its only version has its rows in the order of an interlaced GIF."""


class TooLittleError(ValueError):
    """So much is missing that no repair makes sense; the message says what there is."""


def repair(data: bytes, *, max_pixels: int, tile: Any = None, is_unknown: bool = False) -> Repair | None:
    """Make a damaged file readable; None if nothing is known that could help.

    Args:
        max_pixels: larger images are left as they are.
        tile: Pillow's description of where the pixels are, if it can read the header.
        is_unknown: whether the file begins like no known type, so that an image may begin later.

    Raises:
        TooLittleError: the file can be read in part only, and not enough of it.
    """
    if is_unknown and (start := _image_start(data)):
        inner = data[start:]
        mended = repair(inner, max_pixels=max_pixels)
        damage = f"{start:,} bytes before the image"
        return replace(mended, damage=damage) if mended else Repair(versions=(inner,), damage=damage)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(PNG_MARK):
        return _png(data, max_pixels)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return _other(data, tile) if tile is not None else None


def is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG may be cut off although decoders read it to the end: zeros stand where its end should be."""
    return data.startswith(b"\xff\xd8") and data.endswith(bytes(64))


def missing_rows(versions: list[Image.Image], *, jpeg: bool, interlaced: bool) -> np.ndarray:
    """Which rows of a repaired image are padding: bool ``[height]``.

    Args:
        versions: the decoded versions of a `Repair`.
        interlaced: `Repair.is_interlaced`.
    """
    first = np.asarray(versions[0])
    if len(versions) > 1:
        return np.array([bool((a != b).any()) for a, b in zip(first, np.asarray(versions[1]), strict=True)])
    # The last rows end with the colour of missing data: grey in a JPEG, the palette's first in a GIF.
    last = first[:, -1].reshape(len(first), -1)
    padding = (np.abs(last.astype(int) - _GREY) <= 1 if jpeg else last == 0).all(axis=1)
    passes = ((0, 8), (4, 8), (2, 4), (1, 2)) if interlaced else ((0, 1),)
    order = np.concatenate([np.arange(start, len(first), step) for start, step in passes])
    sound = np.flatnonzero(~padding[order])
    missing = np.zeros(len(first), dtype=bool)
    missing[order[sound[-1] + 1 if len(sound) else 0 :]] = True
    return missing


def fill_rows(image: Image.Image, missing: np.ndarray) -> Image.Image:
    """Give missing rows the mean colour of the sound ones next to them; single rows are copied from above."""
    pixels = np.array(image)
    edges = np.flatnonzero(np.diff(missing, prepend=False, append=False))
    near = max(1, len(pixels) // 20)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        before, after = pixels[max(0, start - near) : start], pixels[end : end + near]
        pixels[start:end] = (before if len(before) else after).mean(axis=(0, 1))
        if end - start == 1 and start:
            pixels[start] = pixels[start - 1]
    return Image.fromarray(pixels)


def _image_start(data: bytes) -> int:
    """Where a JPEG or PNG begins in a file that begins with something else; 0 if nowhere."""
    starts = [data.find(mark, 0, _JUNK_BYTES) for mark in (b"\xff\xd8\xff", PNG_MARK)]
    return min((start for start in starts if start >= 0), default=0)


def _jpeg(data: bytes) -> Repair:
    data = data.rstrip(b"\x00")
    end, is_whole, is_progressive, levels = _jpeg_scans(data)
    if end is None:
        raise TooLittleError("cut off before its pixels")
    if is_progressive and not is_whole and max(levels) > 1:
        raise TooLittleError("the progressive JPEG is cut off before its detail")
    return Repair(versions=(data[:end] + b"\xff\xd9",), damage="" if is_whole else _LAST_BYTES, is_whole=is_whole)


def _jpeg_scans(data: bytes) -> tuple[int | None, bool, bool, list[int]]:
    """Walk through a JPEG.

    Returns:
        The end of its last piece that can be decoded, None if no pixels begin; whether its end is marked; whether it is
        progressive; the bits that
        complete scans have left out of each coefficient of the first component.
    """
    position, is_progressive, levels = 2, False, [15] * 64
    end: int | None = None
    first = b""  # the first component's number
    while (marker := _MARKER.search(data, position)) is not None:
        kind, position = data[marker.end() - 1], marker.end()
        if kind in (0x01, 0xD8):
            continue
        if kind == 0xD9:
            return marker.start(), True, is_progressive, levels
        length = int.from_bytes(data[position : position + 2])
        segment = data[position + 2 : position + length]
        if length < 2 or position + length > len(data):
            return end, False, is_progressive, levels
        position += length
        if kind in (0xC0, 0xC1, 0xC2) and len(segment) > 6:
            is_progressive, first = kind == 0xC2, segment[6:7]
        if kind == 0xDA and len(segment) >= 4:
            following = _MARKER.search(data, position)
            count = segment[0]
            of_first = first in segment[1 : 1 + 2 * count : 2] and len(segment) == 4 + 2 * count
            if following is not None and of_first:
                low, high, bits = segment[1 + 2 * count : 4 + 2 * count]
                levels[low : high + 1] = [bits & 15] * (min(high, 63) + 1 - low)
            end = following.start() if following else len(data) - data.endswith(b"\xff")
    return end, False, is_progressive, levels


def _png(data: bytes, max_pixels: int) -> Repair | None:
    """A PNG of the same pixels without other chunks, complete and with right checksums."""
    header = b""
    kept: list[tuple[bytes, bytes]] = []
    pieces: list[bytes] = []
    file = io.BytesIO(data)
    for kind, length in png_chunks(file):
        body = file.read(length)
        if kind == b"IHDR" and not header:
            header = body
        elif kind == b"IDAT":
            pieces.append(body)
        elif kind in _KEPT and not pieces:
            kept.append((kind, body))
    if len(header) != 13:
        raise TooLittleError("its header is damaged")
    if not pieces:
        raise TooLittleError("it holds no pixels")
    width, height = struct.unpack_from(">II", header)
    if width * height > max_pixels:
        return None
    needed = _png_bytes(header)
    found = 0
    first, second = zlib.compressobj(1), zlib.compressobj(1)
    outs: list[list[bytes]] = [[], []]
    for piece in _inflate(pieces, needed):
        found += len(piece)
        for packer, out in zip((first, second), outs, strict=True):
            out.append(packer.compress(piece))
    lack = needed - found
    if lack > (1.0 - ENOUGH) * needed:
        raise TooLittleError(f"cut off or damaged: {found / needed:.0%} of its pixels can be read")
    versions = []
    for packer, out, fill in zip((first, second), outs, (b"\x00", b"\xff"), strict=True):
        # The rest of a row that is begun, then rows of filter 0.
        out += [packer.compress(_png_padding(header, found, lack, fill)), packer.flush()]
        chunks = [(b"IHDR", header), *kept, (b"IDAT", b"".join(out)), (b"IEND", b"")]
        versions.append(png_file(chunks))
        if not lack:
            break
    damage = "damaged or oversized metadata, or wrong checksums"
    return Repair(versions=tuple(versions), damage=damage, is_whole=not lack)


def _png_passes(header: bytes) -> list[tuple[int, int]]:
    """Rows of each pass and bytes of such a row, its filter included."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 4)
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    passes = starts if interlaced else ((0, 0, 1, 1),)
    sizes = (((height - y + dy - 1) // dy, (width - x + dx - 1) // dx) for x, y, dx, dy in passes)
    return [(rows, 1 + (columns * bits + 7) // 8) for rows, columns in sizes if rows > 0 and columns > 0]


def _png_bytes(header: bytes) -> int:
    return sum(rows * size for rows, size in _png_passes(header))


def _png_padding(header: bytes, found: int, lack: int, fill: bytes) -> bytes:
    out = bytearray()
    position = 0
    for rows, size in _png_passes(header):
        end = position + rows * size
        if end > found:
            inside = max(0, found - position)
            partial = -inside % size
            # A row that has its filter is filled up; filters may make anything of it, which only the mask needs.
            out += fill * partial + (b"\x00" + fill * (size - 1)) * ((end - max(found, position) - partial) // size)
        position = end
    return bytes(out[:lack])


def _inflate(pieces: list[bytes], needed: int) -> Iterator[bytes]:
    """What a zlib stream holds before it ends or is damaged, at most ``needed`` bytes, in bounded pieces."""
    unpacker = zlib.decompressobj()
    for piece in pieces:
        rest = piece
        while rest and needed > 0:
            try:
                out = unpacker.decompress(rest, min(needed, 1 << 20))
            except zlib.error:
                return
            rest = unpacker.unconsumed_tail
            needed -= len(out)
            yield out
            if unpacker.eof:
                return


def _webp(data: bytes) -> Repair | None:
    declared = int.from_bytes(data[4:8], "little") + 8
    lack = declared - len(data)
    if lack <= 0:
        return None
    if lack > (1.0 - ENOUGH) * declared + 64:
        raise TooLittleError(f"cut off: {len(data) / declared:.0%} of its bytes are there")
    return _padded(data, lack)


def _other(data: bytes, tile: Any) -> Repair | None:
    if data.startswith(b"GIF8"):
        return _gif(data, tile.offset, interlaced=bool(tile.args[1]))
    return _padded(data, len(data) // 4 + 4096)


def _padded(data: bytes, lack: int) -> Repair:
    # WebP decodes most sequences of these two bytes, other formats any byte.
    return Repair(versions=(data + bytes(lack), data + b"\x80" * lack), damage=_LAST_BYTES)


def _gif(data: bytes, position: int, *, interlaced: bool) -> Repair | None:
    """Blocks of codes 0, each of which is one pixel of the palette's first colour, up to the missing end."""
    while position < len(data) and (size := data[position]):
        if position + 1 + size > len(data):
            break
        position += 1 + size
    else:
        if position < len(data):
            return None  # it is complete, so something else is wrong
    begun = bytes(max(0, position + 1 + data[position] - len(data))) if position < len(data) else b""
    blocks = (b"\xff" + bytes(255)) * (len(data) // 255 + 64)
    whole = data + begun + blocks + b"\x00\x3b"
    return Repair(versions=(whole,), damage=_LAST_BYTES, is_interlaced=interlaced)
