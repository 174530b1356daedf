"""``llm2clip-search bench captions``: do captions of one image find each other?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import Device, RuntimeName


def bench_captions(
    dataset: Annotated[str, typer.Argument(help="flickr8k.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    model: Annotated[str, typer.Option(help="Whose text tower is measured, as for query.")] = "nano",
    llm: Annotated[
        Path | None, typer.Option(help="Folder that train captions wrote: the LLM alone.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="dev or test.")] = "dev",
    lang: Annotated[str, typer.Option(help="Language of the captions.")] = "en",
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Caption retrieval accuracy, beside word counts (TF-IDF) and all-MiniLM-L6-v2.

    An image's first caption asks, the second to fifth of all images answer; a hit is a nearest answer of the
    same image.

    [dim]llm2clip-search bench captions flickr8k --root ./flickr8k --llm ./llm[/dim]
    """
    from rich.table import Table

    from llm2clip_search.benchmarks.caption_retrieval import caption_retrieval
    from llm2clip_search.benchmarks.flickr8k import read_captions
    from llm2clip_search.benchmarks.sentence_baselines import minilm, tf_idf
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.errors import CorpusError, ModelError

    if dataset != "flickr8k":
        raise CorpusError(f"There is no data set {dataset!r}; there is: flickr8k.")
    captions = read_captions(root, split=split, lang=lang)
    image_of = captions.rows_in(list(dict.fromkeys(captions.image_ids)))
    measured = {"TF-IDF over words": caption_retrieval(tf_idf(captions.texts), image_of)}
    try:
        measured["all-MiniLM-L6-v2"] = caption_retrieval(minilm(captions.texts), image_of)
    except ModelError as error:
        console.warn(f"all-MiniLM-L6-v2 is left out: {error}")
    if llm is not None:
        from llm2clip_search.encoders.towers import pick_device
        from llm2clip_search.training.llm_folder import read_llm

        embed = read_llm(llm).embedder(pick_device(device))
        measured[f"LLM in {llm}"] = caption_retrieval(embed.unit(captions.texts), image_of)
    encoder = load_encoder(model, runtime=runtime, device=device)
    measured[f"text tower of {model}"] = caption_retrieval(encoder.encode_texts(captions.texts), image_of)
    with console.results():
        if json_output:
            for name, accuracy in measured.items():
                print(json.dumps({"encoder": name, "caption_retrieval": accuracy, "language": lang, "split": split}))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("encoder")
        table.add_column("top-1", justify="right")
        for name, accuracy in measured.items():
            table.add_row(name, f"{100 * accuracy:.1f} %")
        console.out.print(table)
