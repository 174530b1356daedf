"""The chunks that a PNG consists of."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

PNG_MARK = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG."""


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and declared length of each chunk of an open PNG, with the file at the chunk's first byte.

    What is not read is passed over. Checksums are not compared.
    """
    position = len(PNG_MARK)
    while len(head := _read_at(file, position, 8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, length
        position += 12 + length


def png_file(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks, with their checksums."""
    return PNG_MARK + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _read_at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)
