"""``llm2clip-search bench captions``: how often captions of the same image find each other."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench.measured import (
    CacheFolder,
    DatasetName,
    DatasetRoot,
    LangName,
    NoCache,
    SplitName,
    open_measured,
    print_rows,
)
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from llm2clip_search.benchmarks.datasets.base import RetrievalSet
    from llm2clip_search.evaluation.caption_retrieval import LanguagePair

    Embed = Callable[[Sequence[str]], np.ndarray]


def bench_captions(
    dataset: DatasetName,
    root: DatasetRoot,
    model: Annotated[str, typer.Option(help="Model whose text tower is measured, as for query.")] = "nano",
    llm: Annotated[
        Path | None, typer.Option(help="Folder written by train captions; its LLM is measured too.", show_default=False)
    ] = None,
    split: SplitName = "",
    lang: LangName = "",
    langs: Annotated[
        str,
        typer.Option(
            help="Languages, separated by commas; measures retrieval between every two of them.", show_default=False
        ),
    ] = "",
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per encoder or pair of languages.")
    ] = False,
) -> None:
    """Measure caption retrieval within a language, with TF-IDF and all-MiniLM-L6-v2 as baselines, or across languages.

    Within a language, an image's first caption is the query; the second to fifth captions of all images are searched.
    Across languages, an image's first caption in one language is the query; all captions in the other are searched.
    A query is a hit if the nearest caption is of the same image.

    [dim]llm2clip-search bench captions flickr8k --root ./flickr8k --langs en,de,zh[/dim]
    """
    from llm2clip_search.errors import CorpusError

    wanted = tuple(dict.fromkeys(name for name in langs.split(",") if name))
    if langs and (lang or len(wanted) < 2):
        raise CorpusError("--langs takes two or more languages; --lang takes one and cannot be combined with it.")
    (measured,) = open_measured(
        [dataset],
        root,
        split=split,
        langs=langs or lang,
        model=model,
        runtime=runtime,
        device=device,
        cache=cache,
        no_cache=no_cache,
    )
    embedders: dict[str, Embed] = {}
    if llm is not None:
        from llm2clip_search.encoders.placement import pick_device
        from llm2clip_search.training.tasks.llm_folder import read_llm

        embedders[f"LLM in {llm}"] = read_llm(llm).embedder(pick_device(device)).unit
    with ProgressBar() as progress:
        embedders[f"text tower of {model}"] = lambda texts: measured.embed_captions(texts, progress)
        if wanted:
            _across(measured.dataset, embedders, json_output)
        else:
            _within(measured.dataset, embedders, json_output)


def _within(found: "RetrievalSet", embedders: "dict[str, Embed]", json_output: bool) -> None:
    from llm2clip_search.benchmarks.sentence_baselines import minilm, tf_idf
    from llm2clip_search.errors import CorpusError, ModelError
    from llm2clip_search.evaluation.caption_retrieval import caption_retrieval_accuracy

    ((lang, captions),) = found.captions.items()
    image_of = captions.rows_in(list(found.images))
    measured: dict[str, float] = {}
    for name, embed in {"TF-IDF over words": tf_idf, "all-MiniLM-L6-v2": minilm, **embedders}.items():
        try:
            measured[name] = caption_retrieval_accuracy(embed(captions.texts), image_of)
        except ModelError as error:
            if name in embedders:
                raise
            console.warn(f"{name} is left out: {error}")
        except ValueError as error:
            raise CorpusError(
                f"Split {found.split!r} of {found.name} in {lang!r} cannot be measured: {error}."
            ) from error

    def table() -> "Table":
        made = console.table("encoder", "top-1", left=("encoder",))
        for name, accuracy in measured.items():
            made.add_row(name, f"{100 * accuracy:.1f} %")
        return made

    rows = (
        {
            "encoder": name,
            "caption_retrieval": accuracy,
            "language": lang,
            "split": found.split,
            "dataset": found.name,
        }
        for name, accuracy in measured.items()
    )
    print_rows(rows, table, json_output=json_output)


def _across(found: "RetrievalSet", embedders: "dict[str, Embed]", json_output: bool) -> None:
    from llm2clip_search.evaluation.caption_retrieval import language_pair_recalls

    images = list(found.images)
    image_of = {lang: captions.rows_in(images) for lang, captions in found.captions.items()}
    for name, embed in embedders.items():
        vectors = {lang: embed(captions.texts) for lang, captions in found.captions.items()}
        pairs = language_pair_recalls(vectors, image_of)
        rows = ({"encoder": name, "dataset": found.name, "split": found.split, **pair.to_dict()} for pair in pairs)
        print_rows(rows, partial(_pairs_table, name, list(image_of), pairs), json_output=json_output)


def _pairs_table(name: str, langs: "Sequence[str]", pairs: "Sequence[LanguagePair]") -> "Table":
    """Recalls of queries in the language of the row with a gallery in that of the column."""
    from llm2clip_search.evaluation.metrics import KS

    cells = {
        (pair.query_language, pair.gallery_language): " / ".join(
            f"{100 * pair.metrics[f'caption_retrieval_recall@{k}']:.1f}" for k in KS
        )
        for pair in pairs
    }
    title = f"{name}: caption_retrieval_recall@{' / '.join(map(str, KS))}, %"
    table = console.table("query / gallery", *langs, left=("query / gallery", *langs), title=title)
    for query_lang in langs:
        table.add_row(query_lang, *(cells.get((query_lang, lang), "") for lang in langs))
    return table
