"""What the commands of ``bench`` that measure a data set have in common: how it is named, opened and kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console

if TYPE_CHECKING:
    from llm2clip_search.benchmarks.datasets.base import RetrievalSet
    from llm2clip_search.encoders import Encoder

DatasetName = Annotated[str, typer.Argument(metavar="NAME", help="A data set; bench datasets lists them.")]
DatasetRoot = Annotated[
    Path, typer.Option("--root", help="Folder of the data set, or one that holds a folder NAME for it.")
]
SplitName = Annotated[
    str, typer.Option("--split", help="Default: the data set's first, as papers print it.", show_default=False)
]
LangName = Annotated[
    str, typer.Option("--lang", help="Language of the captions. Default: the data set's first.", show_default=False)
]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", help="Where embeddings are kept. Default: the user's cache.", show_default=False),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Embed anew, and keep nothing.")]


def open_dataset(name: str, root: Path, *, split: str, langs: str) -> "RetrievalSet":
    """A data set in ``ROOT/NAME``, or in the root itself where there is no such folder; languages with commas."""
    from llm2clip_search.benchmarks.datasets.registry import find_dataset

    folder = root / name if (root / name).is_dir() else root
    return find_dataset(name).open(folder, split=split, langs=[lang for lang in langs.split(",") if lang])


def demand_folder_of(out: Path) -> None:
    """Refuse a file to write whose folder is not there, before anything long begins."""
    from llm2clip_search.errors import CorpusError

    if not out.parent.is_dir() or out.is_dir():
        missing = f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise CorpusError(f"--out names the file to write, but {missing}.")


def kept_in(cache: Path | None, no_cache: bool) -> Path | None:
    """The folder that embeddings are kept in; None keeps none."""
    from llm2clip_search.benchmarks.embedding import default_cache

    return None if no_cache else cache or default_cache()


def warn_of_training(encoder: "Encoder", found: "RetrievalSet") -> str:
    """Say so where the model's card says that it has seen the split; returns what the card says."""
    from llm2clip_search.benchmarks.datasets.registry import find_dataset
    from llm2clip_search.benchmarks.retrieval import seen_in_training

    seen = seen_in_training(find_dataset(found.name), found.split, encoder.training_data)
    if seen:
        console.warn(f"{encoder.name} was trained on {found.name} {found.split}: its card says {seen!r}.")
    return seen
