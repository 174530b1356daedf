"""``llm2clip-search bench lengths``: does an encoder lose on short queries?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import Device, RuntimeName


def bench_lengths(
    dataset: Annotated[str, typer.Argument(metavar="NAME", help="A data set; bench datasets lists them.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    model: Annotated[str, typer.Option(help="As for query.")] = "nano",
    split: Annotated[str, typer.Option(help="Default: the split that papers print.", show_default=False)] = "",
    lang: Annotated[
        str, typer.Option(help="Language of the captions. Default: the data set's first.", show_default=False)
    ] = "",
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a length.")] = False,
) -> None:
    """Recall of the query's own image by the query's length: captions as they are, and cut to their first words.

    Compare two encoders by it, not two lengths: a query of one word has many right images, and one counts.

    [dim]llm2clip-search bench lengths flickr8k --root ./flickr8k --lang de[/dim]
    """
    from rich.table import Table

    from llm2clip_search.benchmarks.datasets.registry import find_dataset
    from llm2clip_search.benchmarks.embedding import default_cache, embed_images
    from llm2clip_search.benchmarks.metrics import KS
    from llm2clip_search.benchmarks.query_length import recall_by_length
    from llm2clip_search.encoders import load_encoder

    found = find_dataset(dataset).open(root, split=split, langs=(lang,) if lang else ())
    (lang,) = found.captions
    encoder = load_encoder(model, runtime=runtime, device=device)
    with console.progress_bars() as report:
        images = embed_images(encoder, found.images, cache=default_cache(), report=report)
        buckets = recall_by_length(encoder, found, lang, images, cache=default_cache(), report=report)
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
