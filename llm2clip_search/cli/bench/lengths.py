"""``llm2clip-search bench lengths``: recall by query length."""

from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench.measured import (
    CacheFolder,
    DatasetName,
    DatasetRoot,
    EncoderName,
    LangName,
    NoCache,
    SplitName,
    open_measured,
    print_rows,
)
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from llm2clip_search.benchmarks.query_length import LengthBucket


def bench_lengths(
    dataset: DatasetName,
    root: DatasetRoot,
    model: EncoderName = "nano",
    split: SplitName = "",
    lang: LangName = "",
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per length.")] = False,
) -> None:
    """Measure image retrieval by query length, for captions unchanged and shortened to their first content words.

    Use it to compare two encoders, not two lengths: a query of one word matches many images, but only one is a hit.

    [dim]llm2clip-search bench lengths flickr8k --root ./flickr8k --lang de[/dim]
    """
    from llm2clip_search.benchmarks.query_length import recall_by_length

    (measured,) = open_measured(
        [dataset],
        root,
        split=split,
        langs=lang,
        model=model,
        runtime=runtime,
        device=device,
        cache=cache,
        no_cache=no_cache,
    )
    found = measured.dataset
    (lang,) = found.captions
    with ProgressBar() as progress:
        images = measured.embed_images(progress)
        buckets = recall_by_length(measured.encoder, found, lang, images, cache=measured.cache, progress=progress)
    same = {"dataset": found.name, "split": found.split, "language": lang, "model": model}
    rows = ({**same, **bucket.to_dict()} for bucket in buckets)
    print_rows(rows, lambda: _table(buckets), json_output=json_output)


def _table(buckets: "Sequence[LengthBucket]") -> "Table":
    from llm2clip_search.evaluation.metrics import KS

    recalls = f"image retrieval R@{' / '.join(map(str, KS))}"
    columns = ("series", "words", "queries", "distinct", "tokens", "truncated", recalls)
    table = console.table(*columns, left=("series", recalls))
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
    return table
