"""Small galleries of smooth pictures with captions, on disk as a reader leaves them."""

from collections.abc import Mapping
from pathlib import Path

from llm2clip_search.benchmarks.datasets.base import Captions, RetrievalSet
from llm2clip_search.corpora.image_files import ImageFiles
from tests.support.images import photograph


def gallery(folder: Path, captions: Mapping[str, Captions], *, images: int) -> RetrievalSet:
    """``images`` pictures ``0.png``, ``1.png``... in ``folder``, in that order, and their captions by language."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in range(images)]
    for number, name in enumerate(names):
        photograph(number, (64, 40)).save(folder / name)
    files = ImageFiles.scan(folder.parent, [folder.name])
    return RetrievalSet(name="toy", split="dev", images=files.only(names), captions=captions)
