"""What decoding an image takes in memory, by its header, and a bound on what all threads take together."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Condition

from PIL import Image

from llm2clip_search.errors import ImageError

MAX_PIXELS = 200_000_000
"""Default limit on an image's size, in pixels: 600 MB as RGB."""

BYTES_PER_PIXEL = 16
"""A process decodes at most this times ``max_pixels`` bytes at once: 3.2 GB by default, four copies as RGB."""

_STORED = {"1": 1, "L": 1, "P": 1}
_WHOLE_CANVASES = {"WEBP": 8, "AVIF": 8, "HEIF": 8, "JPEG2000": 8, "GIF": 4, "TIFF": 8, "JXL": 8, "PSD": 4}
"""Bytes per pixel that decoders of these formats hold beside Pillow's image: planes, canvases, strips."""
_COEFFICIENTS = 6
"""Bytes per pixel of the coefficients of a progressive JPEG, which are held whole, at full size."""


def decoding_bytes(image: Image.Image, *, full_size: tuple[int, int]) -> int:
    """An upper estimate of the bytes that decoding an opened image, converting and turning it take.

    Args:
        full_size: width and height that the file declares, where ``image`` is to be decoded at a reduced size.
    """
    stored = 2 if image.mode.startswith("I;16") else _STORED.get(image.mode, 4)
    converted = 0 if image.mode == "RGB" and image.info.get("transparency") is None else 4
    pixels = image.width * image.height
    total = pixels * (stored + max(converted, 4))  # the source beside its RGB, or that beside the turned image
    if image.info.get("progressive") or image.info.get("progression"):
        total += full_size[0] * full_size[1] * _COEFFICIENTS
    return total + pixels * _WHOLE_CANVASES.get(image.format or "", 0)


class OverLimitError(ImageError):
    """An image that is larger than allowed; whether it is sound is not known."""


class MemoryBudget:
    """Lets threads in while the sum of what they need is within the bound; a single one is always let in."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._in_use = 0
        self._lender: Callable[[int, int], AbstractContextManager[None]] | None = None

    def borrow(self, lender: Callable[[int, int], AbstractContextManager[None]]) -> None:
        """Hold memory of another process's budget from now on.

        Args:
            lender: called with the bytes that are needed and the limit in pixels; its context holds them, and raises
                as `hold`.
        """
        self._lender = lender

    @contextmanager
    def hold(self, needed: int, *, max_pixels: int) -> Iterator[None]:
        """Wait until ``needed`` bytes are free, and hold them meanwhile.

        Raises:
            OverLimitError: stage ``header``, if the image needs more than the whole bound.
        """
        if self._lender is not None:
            with self._lender(needed, max_pixels):
                yield
            return
        bound = BYTES_PER_PIXEL * max_pixels
        if needed > bound:
            raise OverLimitError(
                f"decoding it would take {needed / 1e9:,.1f} GB, over the limit of {bound / 1e9:,.1f} GB",
                stage="header",
                hint="Raise the limit with --max-pixels.",
            )
        with self._changed:
            self._changed.wait_for(lambda: not self._in_use or self._in_use + needed <= bound)
            self._in_use += needed
        try:
            yield
        finally:
            with self._changed:
                self._in_use -= needed
                self._changed.notify_all()


MEMORY = MemoryBudget()
"""What all threads of this process share."""
