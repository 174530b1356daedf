"""``llm2clip-search bench captions``: do captions of one image find each other?"""

import json
from collections.abc import Callable, Sequence
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
    kept_in,
    open_dataset,
    warn_of_training,
)
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    import numpy as np

    from llm2clip_search.benchmarks.datasets.base import RetrievalSet

    Embed = Callable[[Sequence[str]], np.ndarray]


def bench_captions(
    dataset: DatasetName,
    root: DatasetRoot,
    model: Annotated[str, typer.Option(help="Whose text tower is measured, as for query.")] = "nano",
    llm: Annotated[
        Path | None, typer.Option(help="Folder that train captions wrote: the LLM alone.", show_default=False)
    ] = None,
    split: SplitName = "",
    lang: LangName = "",
    langs: Annotated[
        str,
        typer.Option(help="From each of these languages, with commas, to each other one.", show_default=False),
    ] = "",
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a row, or a pair of languages.")] = False,
) -> None:
    """Caption retrieval: within a language beside word counts (TF-IDF) and all-MiniLM-L6-v2, or across languages.

    Within one, an image's first caption asks, the second to fifth of all images answer; a hit is a nearest answer
    of the same image. Across two, the first caption in one asks, all captions in the other answer.

    [dim]llm2clip-search bench captions flickr8k --root ./flickr8k --langs en,de,zh[/dim]
    """
    from llm2clip_search.benchmarks.embedding import embed_captions
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.errors import CorpusError

    wanted = tuple(dict.fromkeys(name for name in langs.split(",") if name))
    if langs and (lang or len(wanted) < 2):
        raise CorpusError("--langs takes two languages or more; --lang, alone, takes one.")
    found = open_dataset(dataset, root, split=split, langs=langs or lang)
    embedders: dict[str, Embed] = {}
    if llm is not None:
        from llm2clip_search.encoders.placement import pick_device
        from llm2clip_search.training.tasks.llm_folder import read_llm

        embedders[f"LLM in {llm}"] = read_llm(llm).embedder(pick_device(device)).unit
    encoder = load_encoder(model, runtime=runtime, device=device)
    warn_of_training(encoder, found)
    with ProgressBar() as progress:
        embedders[f"text tower of {model}"] = lambda texts: embed_captions(
            encoder, texts, cache=kept_in(cache, no_cache), progress=progress
        )
        if wanted:
            _across(found, embedders, json_output)
        else:
            _within(found, embedders, json_output)


def _within(found: "RetrievalSet", embedders: "dict[str, Embed]", json_output: bool) -> None:
    from rich.table import Table

    from llm2clip_search.benchmarks.sentence_baselines import minilm, tf_idf
    from llm2clip_search.errors import CorpusError, ModelError
    from llm2clip_search.evaluation.caption_retrieval import caption_retrieval_accuracy

    ((lang, captions),) = found.captions.items()
    image_of = captions.rows_in(list(found.images))
    measured = {}
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
    with console.results():
        if json_output:
            for name, accuracy in measured.items():
                row = {"encoder": name, "caption_retrieval": accuracy, "language": lang, "split": found.split}
                print(json.dumps({**row, "dataset": found.name}, ensure_ascii=False))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("encoder")
        table.add_column("top-1", justify="right")
        for name, accuracy in measured.items():
            table.add_row(name, f"{100 * accuracy:.1f} %")
        console.out.print(table)


def _across(found: "RetrievalSet", embedders: "dict[str, Embed]", json_output: bool) -> None:
    from rich.table import Table

    from llm2clip_search.evaluation.caption_retrieval import language_pair_recalls
    from llm2clip_search.evaluation.metrics import KS

    images = list(found.images)
    image_of = {lang: captions.rows_in(images) for lang, captions in found.captions.items()}
    for name, embed in embedders.items():
        pairs = language_pair_recalls(
            {lang: embed(captions.texts) for lang, captions in found.captions.items()}, image_of
        )
        with console.results():
            if json_output:
                for pair in pairs:
                    row = {"encoder": name, "dataset": found.name, "split": found.split, **pair.to_dict()}
                    print(json.dumps(row, ensure_ascii=False), flush=True)
                continue
            cells = {
                (pair.query_language, pair.gallery_language): " / ".join(
                    f"{100 * pair.metrics[f'caption_retrieval_recall@{k}']:.1f}" for k in KS
                )
                for pair in pairs
            }
            table = Table(title=f"{name}: caption_retrieval_recall@{' / '.join(map(str, KS))}, %")
            table.title_justify, table.box, table.pad_edge = "left", None, False
            for column in ("from / to", *image_of):
                table.add_column(column)
            for asking in image_of:
                table.add_row(asking, *(cells.get((asking, searched), "") for searched in image_of))
            console.out.print(table)
