"""Images of 224 pixels to index, from the tar shards of a data set."""

import io
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from PIL import Image

from llm2clip_search.errors import CorpusError

SIDE = 224
"""Pixels per side."""
QUALITY = 84
"""JPEG quality of what is encoded again."""


def write_pictures(shards: Path, folder: Path, count: int) -> Path:
    """Write JPEG files of `SIDE` pixels into a folder of its own below ``folder``, and return it.

    Images of this size are copied. If there are not enough, crops of the same images follow, which are other files.

    Args:
        shards: folder with tar files that hold JPEG files.

    Raises:
        CorpusError: there are no images.
    """
    out = folder / f"images-{count}"
    if out.is_dir():
        return out
    partial = out.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    written = 0
    for written, data in enumerate(islice(_pictures(shards), count), start=1):
        (partial / f"{written:06d}.jpg").write_bytes(data)
    if written < count:
        raise CorpusError(f"{shards} holds no tar file with JPEG files.")
    return partial.rename(out)


def _pictures(shards: Path) -> Iterator[bytes]:
    """Each image, then crops of each that are smaller by one more pixel per pass; endless, unless there is none."""
    for margin in range(SIDE // 2):
        for shard in sorted(shards.glob("*.tar")):
            for data in jpegs_of(shard):
                yield _of_side(data, margin)


def jpegs_of(shard: Path) -> Iterator[bytes]:
    """The JPEG files in a tar file, in its order."""
    with tarfile.open(shard) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".jpg") and (file := tar.extractfile(member)) is not None:
                yield file.read()


def _of_side(data: bytes, margin: int) -> bytes:
    """The image without a margin of so many pixels, at `SIDE` pixels."""
    picture = Image.open(io.BytesIO(data))
    if picture.size == (SIDE, SIDE) and not margin:
        return data
    width, height = picture.size
    cropped = picture.convert("RGB").crop((margin, margin, width - margin, height - margin))
    out = io.BytesIO()
    cropped.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
