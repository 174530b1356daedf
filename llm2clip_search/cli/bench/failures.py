"""``llm2clip-search bench failures``: a page of the worst queries."""

from pathlib import Path
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
    demand_folder_of,
    kept_in,
    open_dataset,
    warn_of_training,
)
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar


def bench_failures(
    dataset: DatasetName,
    root: DatasetRoot,
    out: Annotated[Path, typer.Option(help="The page: one HTML file, thumbnails inside.")],
    model: Annotated[str, typer.Option(help="As for query.")] = "nano",
    split: SplitName = "",
    lang: LangName = "",
    count: Annotated[int, typer.Option(min=1, help="Queries shown of each kind: captions, and images.")] = 50,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
) -> None:
    """The queries whose expected answer stands farthest down, with expected and retrieved images, as one HTML file.

    [dim]llm2clip-search bench failures flickr8k --root ./flickr8k --out failures.html[/dim]
    """
    from rich.markup import escape

    from llm2clip_search.base.files import replace_file
    from llm2clip_search.benchmarks.embedding import embed_captions, embed_images
    from llm2clip_search.benchmarks.missed_queries import worst_queries_both_ways
    from llm2clip_search.benchmarks.missed_queries_page import missed_queries_page
    from llm2clip_search.encoders import load_encoder

    demand_folder_of(out)
    found = open_dataset(dataset, root, split=split, langs=lang)
    ((lang, captions),) = found.captions.items()
    encoder = load_encoder(model, runtime=runtime, device=device)
    warn_of_training(encoder, found)
    with ProgressBar() as progress:
        images = embed_images(encoder, found.images, cache=kept_in(cache, no_cache), progress=progress)
        texts = embed_captions(encoder, captions.texts, cache=kept_in(cache, no_cache), progress=progress)
    by_captions, by_images = worst_queries_both_ways(images, texts, captions.rows_in(list(found.images)), count=count)
    page = missed_queries_page(found, lang, model=model, captions=by_captions, images=by_images)
    replace_file(out, page.encode())
    with console.results():
        for kind, failures in (("captions", by_captions), ("images", by_images)):
            console.out.print(
                f"{kind:8}  {failures.missed:,} of {failures.asked:,} do not find their own first,"
                f" {len(failures.worst):,} of them in {escape(str(out))}"
            )
