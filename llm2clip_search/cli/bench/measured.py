"""What the ``bench`` commands that measure an encoder on a data set share: options, opening and output."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm2clip_search.cli import console

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType

    from llm2clip_search.base.progress import Progress
    from llm2clip_search.benchmarks.datasets.base import DatasetInfo, RetrievalSet
    from llm2clip_search.encoders import Encoder
    from llm2clip_search.encoders.towers import Runtime

DatasetName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a data set; bench datasets lists them.")]
DatasetRoot = Annotated[
    Path, typer.Option("--root", help="Folder of the data set, or a folder that contains it as NAME.")
]
SuiteNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME[:SPLIT]]...",
        help="Names of data sets; bench datasets lists them. Default: all that have a folder in --root.",
        show_default=False,
    ),
]
SuiteRoot = Annotated[Path, typer.Option("--root", help="Folder that holds a folder for each data set.")]
SuiteLangs = Annotated[
    str,
    typer.Option(
        "--langs",
        help="Languages, separated by commas, or all. Default: the first one of each data set.",
        show_default=False,
    ),
]
EncoderName = Annotated[str, typer.Option("--model", help="Model to measure, as for query.")]
SplitName = Annotated[
    str,
    typer.Option(
        "--split",
        help="Split to measure. Default: the first one of the data set, which papers report.",
        show_default=False,
    ),
]
LangName = Annotated[
    str,
    typer.Option(
        "--lang", help="Language of the captions. Default: the first one of the data set.", show_default=False
    ),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder of cached embeddings. Default: in the user's cache.", show_default=False),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute all embeddings again and cache nothing.")]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A data set, and the encoder to measure on it."""

    dataset: "RetrievalSet"
    encoder: "Encoder"
    trained_on: str
    """The line of the model's card that says it has seen this data; empty if none does."""
    cache: Path | None
    """Folder of cached embeddings; None to cache nothing."""

    def embed_images(self, progress: "Progress") -> "np.ndarray":
        """Embeddings of the gallery, float32 ``[n_images, dim]``; see `embedding.embed_images`."""
        from llm2clip_search.benchmarks.embedding import embed_images

        return embed_images(self.encoder, self.dataset.images, cache=self.cache, progress=progress)

    def embed_captions(self, texts: Sequence[str], progress: "Progress") -> "np.ndarray":
        """Embeddings of captions, float32 ``[n, dim]``; see `embedding.embed_captions`."""
        from llm2clip_search.benchmarks.embedding import embed_captions

        return embed_captions(self.encoder, texts, cache=self.cache, progress=progress)


def open_measured(
    datasets: Sequence[str],
    root: Path,
    *,
    split: str,
    langs: str,
    model: str,
    runtime: "Runtime",
    device: str,
    cache: Path | None,
    no_cache: bool,
) -> list[Measured]:
    """Open data sets and load the encoder to measure; a note is printed if its card says that it has seen the data.

    Args:
        datasets: names; each is read from ``ROOT/NAME``, or from ``root`` itself if there is no such folder.
        langs: language codes, separated by commas; empty for each data set's default.
    """
    from llm2clip_search.benchmarks.datasets.registry import find_dataset

    wanted = [lang for lang in langs.split(",") if lang]
    opened = []
    for info in map(find_dataset, datasets):
        folder = info.folder_in(root)
        opened.append((info, info.open(folder if folder.is_dir() else root, split=split, langs=wanted)))
    return load_measured(opened, model=model, runtime=runtime, device=device, cache=cache, no_cache=no_cache)


def open_measured_suite(
    datasets: Sequence[str],
    root: Path,
    *,
    langs: str,
    model: str,
    runtime: "Runtime",
    device: str,
    cache: Path | None,
    no_cache: bool,
) -> list[Measured]:
    """As `open_measured`, for data sets that each have a folder in ``root``; what is left out is said."""
    from llm2clip_search.benchmarks.suite import open_suite

    opened = open_suite(root, datasets, langs=[lang for lang in langs.split(",") if lang], skip=console.warn)
    return load_measured(opened, model=model, runtime=runtime, device=device, cache=cache, no_cache=no_cache)


def load_measured(
    opened: "Sequence[tuple[DatasetInfo, RetrievalSet]]",
    *,
    model: str,
    runtime: "Runtime",
    device: str,
    cache: Path | None,
    no_cache: bool,
) -> list[Measured]:
    """Load the encoder to measure on data sets that are open; notes and arguments as of `open_measured`."""
    from llm2clip_search.benchmarks.embedding import default_cache
    from llm2clip_search.benchmarks.retrieval import seen_in_training
    from llm2clip_search.encoders import load_encoder

    encoder = load_encoder(model, runtime=runtime, device=device)
    folder = None if no_cache else cache or default_cache()
    measured = []
    for info, dataset in opened:
        seen = seen_in_training(info, dataset.split, encoder.training_data)
        if seen:
            console.warn(f"{encoder.name} was trained on {dataset.name} {dataset.split}: its card says {seen!r}.")
        measured.append(Measured(dataset=dataset, encoder=encoder, trained_on=seen, cache=folder))
    return measured


def check_output_file(out: Path) -> None:
    """Check early that a result can be written to this file.

    Raises:
        CorpusError: it is a folder, or its folder does not exist.
    """
    from llm2clip_search.errors import CorpusError

    if not out.parent.is_dir() or out.is_dir():
        missing = f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise CorpusError(f"--out names the file to write, but {missing}.")


def print_rows(rows: Iterable[Mapping[str, Any]], table: "Callable[[], RenderableType]", *, json_output: bool) -> None:
    """Print results on stdout: one JSON object per row, or the table that ``table`` creates."""
    with console.results():
        if not json_output:
            console.out.print(table())
            return
        for row in rows:
            console.print_json(row)
