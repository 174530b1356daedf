"""Pictures that were uploaded to search with: in memory, bounded, and gone half an hour after they were last used.

They come from strangers, so they are decoded in processes that can be killed.
"""

import io
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock

from llm2clip_search.encoders.isolation import isolated
from llm2clip_search.server.pictures.rendering import PREVIEW, PictureSize, Rendered, render
from llm2clip_search.server.problems import Problem

IN_MEMORY = 256 << 20
"""Bytes of all of them; those that were not used for longest go first."""
KEPT_S = 30 * 60
"""Seconds after its last use."""
MAX_PIXELS = 100_000_000
"""Of an upload, half of what is indexed: decoding one takes 1.6 GB at most."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A picture that was uploaded."""

    identifier: str
    data: bytes
    """The content of the image file, so that it is embedded as it would be indexed."""
    width: int
    """Pixels, upright."""
    height: int


class Uploads:
    """Uploaded pictures by id; any number of threads may use it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_bytes: int = IN_MEMORY) -> None:
        self._clock, self._max_bytes, self._bytes = clock, max_bytes, 0
        self._held: OrderedDict[str, tuple[Upload, float]] = OrderedDict()
        """With the times of last use, which ascend."""
        self._lock = Lock()

    def add(self, data: bytes) -> Upload:
        """Keep a picture.

        Raises:
            ImageError: it is no image that can be decoded, or is too large.
        """
        width, height = isolated(checked, data, max_pixels=MAX_PIXELS)
        upload = Upload(identifier=secrets.token_urlsafe(16), data=data, width=width, height=height)
        with self._lock:
            self._held[upload.identifier] = (upload, self._clock())
            self._bytes += len(data)
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._held)))
        return upload

    def get(self, identifier: str) -> Upload:
        """A picture, which counts as its use.

        Raises:
            Problem: ``not-found``.
        """
        with self._lock:
            self._expire()
            found = self._held.pop(identifier, None)
            if found is None:
                raise _unknown(identifier)
            self._held[identifier] = (found[0], self._clock())
            return found[0]

    def remove(self, identifier: str) -> None:
        """Forget a picture; errors as of `get`."""
        with self._lock:
            self._expire()
            if identifier not in self._held:
                raise _unknown(identifier)
            self._drop(identifier)

    def thumbnail(self, identifier: str, size: PictureSize) -> Rendered:
        """A picture as a thumbnail; errors as of `get`."""
        upload = self.get(identifier)
        drawn = partial(render, tag=f"{upload.identifier}-{size.name}", max_pixels=MAX_PIXELS)
        return isolated(drawn, upload.data, size, max_pixels=MAX_PIXELS)

    def _expire(self) -> None:
        oldest = self._clock() - KEPT_S
        while self._held and next(iter(self._held.values()))[1] < oldest:
            self._drop(next(iter(self._held)))

    def _drop(self, identifier: str) -> None:
        self._bytes -= len(self._held.pop(identifier)[0].data)


def checked(data: bytes) -> tuple[int, int]:
    """Width and height of an image file, which is decoded to see that it can be; errors as of `Uploads.add`."""
    from llm2clip_search.encoders.images import reading

    with reading(data, max_pixels=MAX_PIXELS, shortest=PREVIEW.width // 8) as picture:
        return picture.size


def plain(data: bytes, shortest: int) -> bytes:
    """An image file as an encoder reads it, upright RGB as PPM, so that it need not be decoded again; errors as
    `Uploads.add`.

    Args:
        shortest: as for `reading`.
    """
    from llm2clip_search.encoders.images import reading

    out = io.BytesIO()
    with reading(data, max_pixels=MAX_PIXELS, shortest=shortest) as picture:
        picture.rgb.save(out, "PPM")
    return out.getvalue()


def _unknown(identifier: str) -> Problem:
    return Problem("not-found", "There is no such upload; it may have expired.", parameter="id")
