"""``llm2clip-search bench failures``: the worst queries as an HTML page."""

from pathlib import Path
from typing import Annotated

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
    check_output_file,
    open_measured,
)
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar


def bench_failures(
    dataset: DatasetName,
    root: DatasetRoot,
    out: Annotated[Path, typer.Option(help="HTML file to write; thumbnails are embedded.")],
    model: EncoderName = "nano",
    split: SplitName = "",
    lang: LangName = "",
    count: Annotated[int, typer.Option(min=1, help="Number of text queries and of image queries to show.")] = 50,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
) -> None:
    """Write the queries whose expected result ranks lowest to an HTML file, with expected and retrieved images.

    [dim]llm2clip-search bench failures flickr8k --root ./flickr8k --out failures.html[/dim]
    """
    from rich.markup import escape

    from llm2clip_search.base.files import replace_file
    from llm2clip_search.benchmarks.missed_queries_page import missed_queries_page
    from llm2clip_search.evaluation.missed_queries import worst_queries_both_ways

    check_output_file(out)
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
    ((lang, captions),) = found.captions.items()
    with ProgressBar() as progress:
        images = measured.embed_images(progress)
        texts = measured.embed_captions(captions.texts, progress)
    by_captions, by_images = worst_queries_both_ways(images, texts, captions.rows_in(list(found.images)), count=count)
    page = missed_queries_page(found, lang, model=model, captions=by_captions, images=by_images)
    replace_file(out, page.encode())
    with console.results():
        for kind, result in (("captions", by_captions), ("images", by_images)):
            console.out.print(
                f"{kind:8}  {result.missed:,} of {result.queries:,} are missed; the worst {len(result.worst):,} are in"
                f" {escape(str(out))}"
            )
