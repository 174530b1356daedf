"""Images by id, as training reads them: of shards and folders, or of own data wherever it lies."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq

from llm2clip_search.corpora.containers import open_uri
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.errors import CorpusError, ImageError, first_line
from llm2clip_search.store.names import decode, json_path
from llm2clip_search.training.data.own_data import IMAGES


class ImageSet(Protocol):
    """Images by id, in an order that does not change."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...

    def find(self, image_id: str) -> str | None:
        """The id of the image that an id in a caption file refers to; None if there is none."""

    def read(self, image_id: str) -> bytes:
        """Read the encoded image.

        Raises:
            CorpusError: it is not there any more.
        """

    def name(self, image_id: str) -> str:
        """The name of an image that people know it by."""

    @property
    def content_hashes(self) -> Mapping[str, str]:
        """A hash of every image's bytes by id, comparable within one recipe."""


class OwnImageSet(ImageSet):
    """Images of a split of own data; their ids are hashes of their content."""

    def __init__(self, table: Path, split: str) -> None:
        """Read the list that `own_data.write_own_data` wrote.

        Raises:
            CorpusError: it is not there.
        """
        try:
            rows = pq.read_table(table, filters=[("split", "=", split)]).to_pylist()
        except (OSError, ValueError) as error:
            raise CorpusError(f"{table} is no list of images: {first_line(error)}.") from error
        self._places: dict[str, tuple[str, str]] = {
            row["image_id"]: (decode(row["uri"]), row["version"]) for row in rows
        }

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def find(self, image_id: str) -> str | None:
        return image_id if image_id in self._places else None

    def read(self, image_id: str) -> bytes:
        uri, version = self._places[image_id]
        try:
            data = open_uri(uri, version)
        except (OSError, ImageError) as error:
            raise CorpusError(f"{uri} cannot be read any more: {first_line(error)}.") from error
        if hashlib.blake2b(data, digest_size=16).hexdigest() != image_id:
            raise CorpusError(f"{uri} has changed since the data was read.", hint="Run train run again.")
        return data

    def name(self, image_id: str) -> str:
        return json_path(self._places[image_id][0])["path"]  # written to pages, which are UTF-8

    @property
    def content_hashes(self) -> Mapping[str, str]:
        return {image_id: image_id for image_id in self._places}


def open_images(root: Path, patterns: Sequence[str]) -> ImageSet:
    """The images of a recipe's patterns.

    Raises:
        CorpusError: as `ImageFiles.scan`.
    """
    table, _, split = patterns[0].partition("#")
    return OwnImageSet(root / table, split) if table == IMAGES else ImageFiles.scan(root, patterns)
