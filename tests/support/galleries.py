"""Builders of small galleries of images with captions, as a reader returns them."""

from collections.abc import Mapping
from pathlib import Path

from llm2clip_search.benchmarks.datasets.base import Captions, RetrievalSet
from llm2clip_search.corpora.image_files import ImageFiles
from tests.support.images import photograph


def gallery(folder: Path, captions: Mapping[str, Captions], *, images: int) -> RetrievalSet:
    """A set with the images ``0.png``, ``1.png``, ... written to ``folder``, and the given captions by language."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in range(images)]
    for number, name in enumerate(names):
        photograph(number, (64, 40)).save(folder / name)
    files = ImageFiles.scan(folder.parent, [folder.name])
    return RetrievalSet(name="toy", split="dev", images=files.only(names), captions=captions)
