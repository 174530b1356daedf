"""``llm2clip-search bench lengths``: does an encoder lose on short queries?"""

import json
from typing import Annotated

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


def bench_lengths(
    dataset: DatasetName,
    root: DatasetRoot,
    model: Annotated[str, typer.Option(help="As for query.")] = "nano",
    split: SplitName = "",
    lang: LangName = "",
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a length.")] = False,
) -> None:
    """Recall of the query's own image by the query's length: captions as they are, and cut to their first words.

    Compare two encoders by it, not two lengths: a query of one word has many right images, and one counts.

    [dim]llm2clip-search bench lengths flickr8k --root ./flickr8k --lang de[/dim]
    """
    from rich.table import Table

    from llm2clip_search.benchmarks.embedding import embed_images
    from llm2clip_search.benchmarks.query_length import recall_by_length
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.evaluation.metrics import KS

    found = open_dataset(dataset, root, split=split, langs=lang)
    (lang,) = found.captions
    encoder = load_encoder(model, runtime=runtime, device=device)
    warn_of_training(encoder, found)
    with ProgressBar() as progress:
        images = embed_images(encoder, found.images, cache=kept_in(cache, no_cache), progress=progress)
        buckets = recall_by_length(encoder, found, lang, images, cache=kept_in(cache, no_cache), progress=progress)
    with console.results():
        if json_output:
            for bucket in buckets:
                row = {"dataset": found.name, "split": found.split, "language": lang, "model": model}
                print(json.dumps({**row, **bucket.to_dict()}, ensure_ascii=False))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("series")
        for column in ("words", "queries", "different", "tokens", "cut"):
            table.add_column(column, justify="right")
        table.add_column(f"image_retrieval R@{' / '.join(map(str, KS))}")
        for before, bucket in zip([None, *buckets], buckets, strict=False):
            table.add_row(
                bucket.series if before is None or before.series != bucket.series else "",
                bucket.words,
                f"{bucket.queries:,}",
                f"{bucket.different:,}",
                f"{bucket.tokens:.1f}",
                f"{bucket.cut:,}",
                " / ".join(f"{100 * bucket.metrics[f'image_retrieval_recall@{k}']:.1f}" for k in KS),
            )
        console.out.print(table)
