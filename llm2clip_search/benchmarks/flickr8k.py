"""Flickr8k as webdataset shards ``flickr8k-SPLIT-NNN.tar`` beside ``captions.csv.gz``.

A shard holds ``ID.jpg``; the captions, in several languages, are rows of
``image_id, split, lang, caption, origin``.
"""

import csv
import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from llm2clip_search.encoders.images import decode_upright, open_image
from llm2clip_search.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions of one language with the image each describes."""

    texts: list[str]
    image_ids: list[str]

    def rows_in(self, images: list[str]) -> np.ndarray:
        """int64 row of each caption's image in ``images``: mapped by id, never by position.

        Raises:
            CorpusError: captions of images that are not there.
        """
        place = {image: row for row, image in enumerate(images)}
        if missing := set(self.image_ids) - place.keys():
            raise CorpusError(f"{len(missing)} images have captions but are in no shard, such as {min(missing)}.")
        return np.array([place[image] for image in self.image_ids], dtype=np.int64)

    def joined(self, parts: int) -> "Captions":
        """One long caption an image: its first ``parts`` captions; images with fewer than two are left out."""
        of_image: dict[str, list[str]] = {}
        for text, image in zip(self.texts, self.image_ids, strict=True):
            of_image.setdefault(image, []).append(text)
        long = {image: join_sentences(texts[:parts]) for image, texts in of_image.items() if len(texts) > 1}
        return Captions(texts=list(long.values()), image_ids=list(long))


def join_sentences(texts: Sequence[str]) -> str:
    """Captions as one text, each with a stop at its end."""
    stops = ".!?\u3002\uff01\uff1f"  # the last three are Chinese
    return " ".join(text if text[-1] in stops else f"{text}." for text in texts)


def read_captions(root: Path, *, split: str, lang: str) -> Captions:
    """Captions of a split in one language, in the file's order, empty ones left out.

    Raises:
        CorpusError: the file is missing, lacks a column, or has no such captions.
    """
    path = root / "captions.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = [
                (row["caption"].strip(), row["image_id"])
                for row in csv.DictReader(file)
                if row["split"] == split and row["lang"] == lang
            ]
    except (OSError, EOFError, KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} is not Flickr8k's caption file: {error!r}.") from error
    rows = [row for row in rows if row[0]]
    if not rows:
        raise CorpusError(f"{path} has no captions of split {split!r} in language {lang!r}.")
    return Captions(texts=[text for text, _ in rows], image_ids=[image for _, image in rows])


def iter_image_files(root: Path, *, split: str) -> Iterator[tuple[str, bytes]]:
    """Image ids, as the captions name them, with the files' bytes, in the shards' order.

    Raises:
        CorpusError: no shard of that split, or one that is damaged.
    """
    shards = sorted(root.glob(f"flickr8k-{split}-*.tar"))
    if not shards:
        raise CorpusError(f"{root} holds no flickr8k-{split}-NNN.tar; name the folder of the shards with --root.")
    for shard in shards:
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    if member.name.endswith(".jpg") and (file := tar.extractfile(member)) is not None:
                        yield member.name, file.read()
        except (OSError, tarfile.TarError) as error:
            first = str(error).partition("\n")[0].rstrip(":")
            raise CorpusError(f"{shard} cannot be read: {first}.") from error


def iter_images(root: Path, *, split: str) -> Iterator[tuple[str, Image.Image]]:
    """Image ids with upright RGB images, in the shards' order."""
    for name, data in iter_image_files(root, split=split):
        yield name, decode_upright(open_image(io.BytesIO(data)))
