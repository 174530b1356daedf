"""Builders of data sets in their authors' layouts: a few real JPEGs in folders and shards."""

import csv
import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.support.images import photograph


@cache
def jpeg(seed: int) -> bytes:
    """A JPEG file; different seeds give different files."""
    out = io.BytesIO()
    photograph(seed, size=(32, 24)).save(out, "JPEG")
    return out.getvalue()


def write_images(folder: Path, names: Iterable[str]) -> Path:
    """Write a different JPEG under each name, creating subfolders; returns the folder."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed))
    return folder


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write an uncompressed shard with these members in order; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_captioned_shards(
    folder: Path, name: str, captions: Mapping[str, Mapping[str, Iterable[str]]], *, lang: str = "en"
) -> Path:
    """Shards and captions of a data set; ``captions`` are those of each image by split, and images are different."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for first, (split, of_image) in enumerate(captions.items()):
        members = {image: jpeg(1000 * first + number) for number, image in enumerate(of_image)}
        write_tar(folder / f"{name}-{split}-000.tar", members)
        rows += [[image, split, lang, text, "x"] for image, texts in of_image.items() for text in texts]
    write_caption_rows(folder / "captions.csv.gz", ["image_id", "split", "lang", "caption", "origin"], rows)
    return folder


def write_caption_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    """A gzipped CSV file; returns its path."""
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_multilingual_flickr8k(folder: Path, *, images: int, tail: str = "") -> Path:
    """Flickr8k's dev split with two captions per image in en and de, each followed by ``tail``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tar(folder / "flickr8k-dev-000.tar", {f"{number}.jpg": jpeg(number) for number in range(images)})
    rows = [
        [f"{number}.jpg", "dev", lang, f"{lang} {number} {letter}{tail}", "x"]
        for number in range(images)
        for lang in ("en", "de")
        for letter in "yz"
    ]
    write_caption_rows(folder / "captions.csv.gz", ["image_id", "split", "lang", "caption", "origin"], rows)
    return folder
