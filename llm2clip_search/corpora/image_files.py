"""Images of a data set: where each lies in webdataset shards or folders, and its bytes.

A shard is scanned once for its members' places; an image is then one read, so that any order of the
data costs the same and a run resumes anywhere.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llm2clip_search.corpora.shards import find_files, shard_members
from llm2clip_search.errors import CorpusError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class ByteRange:
    """Bytes of one image."""

    path: Path
    offset: int
    size: int


class ImageFiles:
    """Images by id, which is the name in the shard or the path below the folder.

    An id without its suffix finds the image too, as webdataset's own keys have none.
    """

    def __init__(self, places: Mapping[str, ByteRange]) -> None:
        self._places = dict(places)
        stems: dict[str, str] = {}
        for image_id in self._places:
            stem = image_id.rpartition(".")[0]
            stems[stem] = "" if stem in stems else image_id  # of two, neither is meant
        self._by_stem = {stem: image_id for stem, image_id in stems.items() if image_id}

    @classmethod
    def scan(cls, root: Path, patterns: Sequence[str]) -> "ImageFiles":
        """The images of shards and folders, see `shards.find_files` for patterns.

        Raises:
            CorpusError: a pattern without files, a damaged shard, an id that two images share, or no image.
        """
        places: dict[str, ByteRange] = {}
        for pattern in patterns:
            for path in find_files(root, pattern):
                for image_id, place in _folder(path) if path.is_dir() else _shard(path):
                    if image_id in places:
                        raise CorpusError(
                            f"Image {image_id!r} lies in {places[image_id].path} and again in {place.path}."
                        )
                    places[image_id] = place
        if not places:
            raise CorpusError(f"{root} holds no image under {', '.join(patterns)}.")
        return cls(places)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def find(self, image_id: str) -> str | None:
        """The image that a caption file's id means."""
        return image_id if image_id in self._places else self._by_stem.get(image_id)

    def only(self, image_ids: Sequence[str]) -> "ImageFiles":
        """Those images alone, in that order.

        Raises:
            KeyError: an id that is none of these images'.
        """
        return ImageFiles({image_id: self._places[image_id] for image_id in image_ids})

    def path(self, image_id: str) -> Path:
        """The file that holds the image: its own, or its shard."""
        return self._places[image_id].path

    def read(self, image_id: str) -> bytes:
        """The file's bytes.

        Raises:
            CorpusError: the shard is shorter than when it was scanned.
        """
        place = self._places[image_id]
        with place.path.open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.size)
        if len(data) != place.size:
            raise CorpusError(f"{place.path} ends inside {image_id!r}: {len(data)} of {place.size} bytes are there.")
        return data

    def open(self, uri: str) -> bytes:
        """`read`, as a `corpora.corpus.ItemReader` that knows items by image id."""
        return self.read(uri)

    @cached_property
    def content_hashes(self) -> dict[str, str]:
        """SHA-256 of every image's bytes, which are read for it once."""
        return {image_id: hashlib.sha256(self.read(image_id)).hexdigest() for image_id in self._places}


def _folder(folder: Path) -> Iterator[tuple[str, ByteRange]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path.relative_to(folder).as_posix(), ByteRange(path, 0, path.stat().st_size)


def _shard(path: Path) -> Iterator[tuple[str, ByteRange]]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in shard_members(tar):
                if member.name.lower().endswith(IMAGE_SUFFIXES):
                    yield member.name.removeprefix("./"), ByteRange(path, member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        first = str(error).partition("\n")[0].rstrip(":")
        raise CorpusError(f"{path} cannot be read as an uncompressed tar shard: {first}.") from error
