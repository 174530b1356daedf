"""Index runs over files as cameras and data sets have them, beside the tower alone and a plain loop:
``python -m llm2clip_search.benchmarks.perf.image_files SHARDS``.

The loop opens each file with Pillow, resizes it, and calls the same tower with 32 images at a time. All three take the
same images in turns.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llm2clip_search.benchmarks.perf.peers.pictures import jpegs_of, write_pictures
from llm2clip_search.benchmarks.perf.timing import seconds_of, tower_rate
from llm2clip_search.encoders import Encoder, load_encoder
from llm2clip_search.encoders.images import register_plugins, to_pixels
from llm2clip_search.encoders.registry import DEFAULT_MODEL
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import index_corpus
from llm2clip_search.indexers.sources import open_sources

BATCH = 32
_GRAIN = 12.0
"""Standard deviation of the noise that enlarged images get, in grey levels: without it, they would compress to a
fraction of what a camera writes."""


@dataclass(frozen=True, kw_only=True)
class FileSpeed:
    """Images per second, medians over the rounds; the model is loaded before."""

    kind: str
    images: int
    mean_bytes: int
    """Of a file."""
    index: float
    """A whole index run: list, read, hash, decode, embed, commit."""
    tower: float
    """The vision tower on pixels in memory."""
    loop: float
    """The plain loop."""


def _copied(pictures: Path, out: Path, _: int) -> None:
    shutil.copytree(pictures, out)


def _tars(pictures: Path, out: Path, _: int) -> None:
    out.mkdir()
    with tarfile.open(out / "images.tar", "w") as tar:
        for path in sorted(pictures.iterdir()):
            tar.add(path, path.name)


def _enlarged(size: tuple[int, int], suffix: str, **options: Any) -> Callable[[Path, Path, int], None]:
    def write(pictures: Path, out: Path, count: int) -> None:
        out.mkdir()
        for number, path in enumerate(sorted(pictures.iterdir())[:count]):
            grain = np.random.default_rng(number).normal(0.0, _GRAIN, (size[1], size[0], 1)).astype(np.float32)
            large = np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC)) + grain
            Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(out / f"{number:04d}{suffix}", **options)

    return write


KINDS: Mapping[str, Callable[[Path, Path, int], None]] = {
    "JPEG, 224 pixels": _copied,
    "the same in a tar file": _tars,
    "JPEG, 12 megapixels": _enlarged((4000, 3000), ".jpg", quality=90),
    "PNG, 24 megapixels": _enlarged((6000, 4000), ".png", compress_level=1),
    "HEIC, 12 megapixels": _enlarged((4000, 3000), ".heic", quality=60),
}
"""How to write files of a kind: from a folder of pictures into a new one, at most so many if they are large."""


def measure_image_files(
    encoder: Encoder, pictures: Path, *, large: int, rounds: int, kinds: Mapping[str, Callable[..., None]] = KINDS
) -> Iterator[FileSpeed]:
    """Write files of each kind to a temporary folder and measure them.

    Args:
        pictures: folder of JPEG files.
        large: number of files of kinds that are enlarged.
    """
    register_plugins()
    encoder.encode_pixels(np.zeros((BATCH, encoder.preprocess.height, encoder.preprocess.width, 3), np.uint8))
    for kind, write in kinds.items():
        with tempfile.TemporaryDirectory(prefix="llm2clip-files-") as scratch:
            folder = Path(scratch) / "images"
            write(pictures, folder, large)
            pixels = np.concatenate([*_batches(folder, encoder)])
            sizes = [len(data) for data in _contents(folder)]
            rates: dict[str, list[float]] = {"index": [], "tower": [], "loop": []}
            for _ in range(rounds):
                rates["index"].append(len(pixels) / _index_seconds(folder, encoder, len(pixels)))
                rates["tower"].append(tower_rate(encoder, pixels, BATCH))
                rates["loop"].append(len(pixels) / seconds_of(partial(_loop, folder, encoder)))
            medians = {name: statistics.median(each) for name, each in rates.items()}
            yield FileSpeed(kind=kind, images=len(pixels), mean_bytes=sum(sizes) // len(sizes), **medians)


def _loop(folder: Path, encoder: Encoder) -> None:
    for batch in _batches(folder, encoder):
        encoder.encode_pixels(batch)


def _index_seconds(folder: Path, encoder: Encoder, images: int) -> float:
    """Index a folder, or the tar file in it, into a new index.

    Raises:
        CorpusError: not all images were embedded.
    """
    (corpus,) = open_sources([*folder.glob("*.tar")] or [folder], None)
    with tempfile.TemporaryDirectory(prefix="llm2clip-files-") as index:
        done = index_corpus(corpus, encoder=encoder, index=Path(index) / "index")
    if done.indexed != images:
        raise CorpusError(f"{done.indexed} of {images} images were embedded.")
    return done.elapsed


def _contents(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.iterdir()):
        if path.suffix == ".tar":
            yield from jpegs_of(path)
        else:
            yield path.read_bytes()


def _batches(folder: Path, encoder: Encoder) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for data in _contents(folder):
        batch.append(to_pixels(Image.open(io.BytesIO(data)).convert("RGB"), encoder.preprocess))
        if len(batch) == BATCH:
            yield np.stack(batch)
            batch.clear()
    if batch:
        yield np.stack(batch)


def main() -> None:
    """Measure and write a line of JSON for each kind of file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, help="folder with tar files of JPEG files")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--images", type=int, default=600, help="small images")
    parser.add_argument("--large", type=int, default=48, help="large images of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with (
        os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as out,
        tempfile.TemporaryDirectory(prefix="llm2clip-files-") as scratch,
    ):
        pictures = write_pictures(given.shards, Path(scratch), given.images)
        speeds = measure_image_files(load_encoder(given.model), pictures, large=given.large, rounds=given.rounds)
        for speed in speeds:
            out.write(json.dumps(asdict(speed)) + "\n")


if __name__ == "__main__":
    main()
