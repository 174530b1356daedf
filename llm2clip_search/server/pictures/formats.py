"""What browsers may show of a file, judged by its first bytes and never by its name."""

_RASTER: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypavis", "image/avif"),
    (0, b"BM", "image/bmp"),
)
HEAD = 16
"""Bytes that tell."""


def raster_type(head: bytes) -> str | None:
    """The media type of a file that browsers show as pixels and never run; None for any other.

    A page or a drawing in SVG begins otherwise. One that pretends to be a raster image is sent as one.
    """
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for offset, mark, kind in _RASTER if head.startswith(mark, offset)), None)
