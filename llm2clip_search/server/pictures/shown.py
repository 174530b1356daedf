"""Thumbnails and previews of rows, made once."""

from dataclasses import dataclass
from functools import cached_property

from llm2clip_search.server.opened import Opened
from llm2clip_search.server.pictures.cache import DiskCache, MemoryCache
from llm2clip_search.server.pictures.originals import content_hash, original_of
from llm2clip_search.server.pictures.rendering import PictureSize, Rendered, render
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.values import HASH_DIGITS

IN_MEMORY = 128 << 20
ON_DISK = 2 << 30
"""Bytes of pictures that are kept: thumbnails of 320 pixels of about 6,000 and 100,000 photographs."""


@dataclass(frozen=True, kw_only=True)
class _Key:
    """A picture in memory: ids name one content as long as the index does not change."""

    generation: str
    identifier: str
    size: str


class Shown:
    """What rows look like; any number of threads may use it."""

    def __init__(self) -> None:
        self._memory = MemoryCache[_Key](max_bytes=IN_MEMORY)

    def held(self, identifier: str, size: PictureSize, opened: Opened) -> Rendered | None:
        """A picture that is in memory, at once; None if it is not."""
        return self._memory.get(_Key(generation=opened.generation, identifier=identifier, size=size.name))

    def picture(self, identifier: str, size: PictureSize, opened: Opened) -> Rendered:
        """The picture of a row, from the disk or made now. That of a file that is gone is shown while it is kept.

        Raises:
            Problem: ``not-found``; ``not-an-image`` for a text; ``gone``.
            ImageError: the file cannot be decoded any more.
        """
        if (held := self.held(identifier, size, opened)) is not None:  # another request has made it meanwhile
            return held
        original = original_of(identifier, opened)
        if original.is_text:
            raise Problem("not-an-image", f"Row {identifier} is a text.", parameter="id")
        found = self._kept(original.content_hash, size)
        if found is None:
            data = original.content()
            if not original.is_as_indexed(data):
                actual = content_hash(data)
                return self._kept(actual, size) or self._made(data, actual, size)
            found = self._made(data, original.content_hash, size)
        self._memory.put(_Key(generation=opened.generation, identifier=identifier, size=size.name), found)
        return found

    def close(self) -> None:
        """Close the file on the disk."""
        self._disk.close()

    @cached_property
    def _disk(self) -> DiskCache:
        from llm2clip_search.encoders.cache import cache_dir

        return DiskCache(cache_dir() / "thumbnails", max_bytes=ON_DISK)

    def _kept(self, digest: str, size: PictureSize) -> Rendered | None:
        found = self._disk.get(f"{digest}-{size.name}")
        if found is None:
            return None
        return Rendered(data=found[0], media_type=found[1], tag=_tag(digest, size))

    def _made(self, data: bytes, digest: str, size: PictureSize) -> Rendered:
        made = render(data, size, tag=_tag(digest, size))
        self._disk.put(f"{digest}-{size.name}", made.data, made.media_type)
        return made


def _tag(digest: str, size: PictureSize) -> str:
    """Begins with what URLs of pictures have as ``v``."""
    return f"{digest[:HASH_DIGITS]}-{size.name}"
