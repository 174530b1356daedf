"""Images of a data set in webdataset shards or folders: their positions and their bytes.

A shard is scanned once for the positions of its members. Each image is then a single read, so any order costs the same
and a run can resume anywhere.
"""

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.shards import find_files, shard_members
from llm2clip_search.errors import CorpusError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class ByteRange:
    """Position of one image's bytes: the file, the offset in it and the size, both in bytes."""

    path: Path
    offset: int
    size: int


class ImageFiles:
    """Images by id; the id is the name in the shard or the path relative to the folder.

    `find` also accepts ids without their suffix, because webdataset keys have none, and paths as tables spell them.
    """

    def __init__(self, ranges: Mapping[str, ByteRange]) -> None:
        self._ranges = dict(ranges)
        stems: dict[str, str] = {}
        for image_id in self._ranges:
            stem = image_id.rpartition(".")[0]
            stems[stem] = "" if stem in stems else image_id  # ambiguous: it stands for neither
        self._by_stem = {stem: image_id for stem, image_id in stems.items() if image_id}

    @classmethod
    def scan(cls, root: Path, patterns: Sequence[str]) -> "ImageFiles":
        """Find the images in shards and folders; patterns are those of `shards.find_files`.

        Raises:
            CorpusError: a pattern matches nothing, a shard is damaged, two images have the same id, or there is no
                image.
        """
        ranges: dict[str, ByteRange] = {}
        for pattern in patterns:
            for path in find_files(root, pattern):
                for image_id, found in _folder(path) if path.is_dir() else _shard(path):
                    if image_id in ranges:
                        raise CorpusError(
                            f"Image {image_id!r} is in {ranges[image_id].path} and again in {found.path}."
                        )
                    ranges[image_id] = found
        if not ranges:
            raise CorpusError(f"There are no images in {', '.join(str(root / pattern) for pattern in patterns)}.")
        return cls(ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ranges)

    def find(self, image_id: str) -> str | None:
        """The id of the image that an id in a caption file refers to, with or without suffix; None if there is none.

        Folders named ``.`` and backslashes between folders are accepted, and another case of letters for a file in
        a file system that ignores case.
        """
        for spelling in (image_id, _plain(image_id)):
            if spelling in self._ranges:
                return spelling
            if spelling in self._by_stem:
                return self._by_stem[spelling]
        other = self._by_folded.get(_plain(image_id).casefold(), "")
        return other if other and self._ignores_case(other, _plain(image_id)) else None

    def _ignores_case(self, image_id: str, spelling: str) -> bool:
        """Whether the file of an image is also found under another spelling of its id."""
        path = self.path(image_id)
        if not path.as_posix().endswith(f"/{image_id}"):
            return False  # it is in a shard, where case counts
        suffix = "" if len(spelling) == len(image_id) else image_id[image_id.rindex(".") :]
        try:
            return Path(path.as_posix().removesuffix(image_id) + spelling + suffix).samefile(path)
        except OSError:
            return False

    def only(self, image_ids: Sequence[str]) -> "ImageFiles":
        """A selection of these images, in the given order.

        Raises:
            KeyError: there is no image with one of the ids.
        """
        return ImageFiles({image_id: self._ranges[image_id] for image_id in image_ids})

    def path(self, image_id: str) -> Path:
        """The file that contains the image: its own file, or its shard."""
        return self._ranges[image_id].path

    def read(self, image_id: str) -> bytes:
        """Read the encoded image.

        Raises:
            CorpusError: the file is shorter than when it was scanned.
        """
        found = self._ranges[image_id]
        with found.path.open("rb") as file:
            file.seek(found.offset)
            data = file.read(found.size)
        if len(data) != found.size:
            raise CorpusError(f"{found.path} ends within {image_id!r}: it has {len(data)} of {found.size} bytes.")
        return data

    def name(self, image_id: str) -> str:
        """The name of an image that people know it by: its id."""
        return image_id

    def open(self, item: Item) -> bytes:
        """`read`, as a `corpora.corpus.ItemReader` whose items have image ids as URIs."""
        return self.read(item.uri)

    @cached_property
    def _by_folded(self) -> dict[str, str]:
        """Ids by their spelling without case, with and without suffix, where only one image has it."""
        folded: dict[str, set[str]] = {}
        for image_id in self._ranges:
            for spelling in (image_id, image_id.rpartition(".")[0]):
                folded.setdefault(spelling.casefold(), set()).add(image_id)
        return {spelling: ids.pop() for spelling, ids in folded.items() if len(ids) == 1}

    @cached_property
    def content_hashes(self) -> dict[str, str]:
        """Hex SHA-256 of every image's bytes by id; computed once, which reads every image."""
        return {image_id: hashlib.sha256(self.read(image_id)).hexdigest() for image_id in self._ranges}


def _plain(image_id: str) -> str:
    """An id with slashes between folders, and without folders named ``.``."""
    return posixpath.normpath(image_id.replace("\\", "/"))


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
