"""Retrieval sets as distributed by CLIP_benchmark: ``SPLIT/nshards.txt`` and ``SPLIT/0.tar``, ``SPLIT/1.tar``, ...

A shard contains ``KEY.jpg`` or ``KEY.webp`` and ``KEY.txt`` with one caption per line; ``dataset_type.txt`` contains
``retrieval`` (https://huggingface.co/clip-benchmark, written by its ``webdataset_builder.py``).
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from llm2clip_search.benchmarks.datasets.base import Captions, RetrievalSet
from llm2clip_search.benchmarks.datasets.folders import read_text
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.corpora.shards import shard_members
from llm2clip_search.errors import CorpusError

SHARD_COUNT_FILE = "nshards.txt"
TASK_FILE = "dataset_type.txt"


def is_clip_benchmark(root: Path, split: str) -> bool:
    """Whether ``root`` contains that split in CLIP_benchmark's layout."""
    return (root / split / SHARD_COUNT_FILE).is_file()


def read_clip_benchmark(root: Path, *, name: str, split: str, lang: str) -> RetrievalSet:
    """Read a split; caption ids are ``KEY.jpg#n``.

    Raises:
        CorpusError: the set is for another task, a shard is missing or damaged, or captions are not UTF-8 or have no
            image.
    """
    if (root / TASK_FILE).is_file() and (task := read_text(root / TASK_FILE).strip()) != "retrieval":
        raise CorpusError(f"{root / TASK_FILE} says {task!r}, but only a set for 'retrieval' has captions.")
    folder = root / split
    count = read_text(folder / SHARD_COUNT_FILE).strip()
    if not count.isdecimal() or not int(count):
        raise CorpusError(f"{folder / SHARD_COUNT_FILE} says {count!r}, which is not a number of shards.")
    shards = [folder / f"{number}.tar" for number in range(int(count))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise CorpusError(
            f"{len(missing):,} of {len(shards):,} shards are missing from {folder}, such as {missing[0]}."
        )
    images = ImageFiles.scan(folder, [shard.name for shard in shards])
    pairs = [pair for shard in shards for pair in _captions(shard, images)]
    described = len({image for image, _ in pairs})
    return RetrievalSet(
        name=name,
        split=split,
        images=images,
        captions={lang: Captions.of(pairs)},
        notes=(
            f"{len(pairs):,} captions of {described:,} images, {len(images):,} in the gallery, "
            "from the shards of CLIP_benchmark.",
        ),
    )


def _captions(shard: Path, images: ImageFiles) -> Iterator[tuple[str, str]]:
    with tarfile.open(shard, "r:") as tar:  # ImageFiles.scan has already checked it to its end
        for member in shard_members(tar):
            if not member.name.endswith(".txt") or (file := tar.extractfile(member)) is None:
                continue
            key = member.name.removeprefix("./").removesuffix(".txt")
            image = images.find(key)
            if image is None:
                raise CorpusError(f"{shard} has captions but no image for {key!r}.")
            try:
                text = file.read().decode()
            except UnicodeDecodeError as error:
                raise CorpusError(f"{member.name} in {shard} is not UTF-8: byte {error.start:,} is invalid.") from error
            yield from ((image, line.strip()) for line in text.split("\n") if line.strip())
