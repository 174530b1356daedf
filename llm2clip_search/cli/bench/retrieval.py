"""``llm2clip-search bench retrieval``: recall on benchmarks, optionally with figures from papers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench.measured import (
    CacheFolder,
    DatasetRoot,
    EncoderName,
    Measured,
    NoCache,
    SplitName,
    check_output_file,
    open_measured,
)
from llm2clip_search.cli.cluster_options import Encoders, GpusPerEncoder, On, Staging, cluster_config
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from llm2clip_search.benchmarks.datasets.base import RetrievalSet
    from llm2clip_search.benchmarks.results import RetrievalResult
    from llm2clip_search.cluster.pool import ClusterConfig


Against = Annotated[
    Literal["paper"] | None,
    typer.Option(help="Show figures published in papers below the results.", show_default=False),
]


def bench_retrieval(
    datasets: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Names of data sets; bench datasets lists them.", show_default=False),
    ],
    root: DatasetRoot,
    model: EncoderName = "nano",
    split: SplitName = "",
    langs: Annotated[
        str,
        typer.Option(
            help="Languages, separated by commas, or all. Default: the first one of the data set.", show_default=False
        ),
    ] = "",
    captions_per_image: Annotated[
        str,
        typer.Option(
            help="Use all captions, or at most this many of each image: the first ones. Papers mostly use 5 on COCO;"
            " CLIP_benchmark uses 1 on Crossmodal-3600."
        ),
    ] = "all",
    joined: Annotated[
        int, typer.Option(min=0, help="Join this many captions of an image into one long query; 0 uses each by itself.")
    ] = 0,
    drafts: Annotated[
        bool,
        typer.Option(
            "--drafts",
            help="Read large JPEGs at reduced size, as indexing does for speed, to measure what that changes."
            " Benchmarks otherwise read whole images, as papers do.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the results, one JSON object per language; bench compare and bench report read it.",
            show_default=False,
        ),
    ] = None,
    against: Against = None,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    on: On = None,
    staging: Staging = None,
    encoders: Encoders = None,
    gpus_per_encoder: GpusPerEncoder = 1.0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per language.")] = False,
) -> None:
    """Measure recall@1, 5 and 10 of image and text retrieval as defined by CLIP_benchmark, with 95 % intervals.

    Embeddings are cached by encoder and data, so an interrupted run continues where it stopped.

    [dim]llm2clip-search bench retrieval flickr8k --root ./flickr8k --langs en,de --out nano.json[/dim]
    """
    if out is not None:
        check_output_file(out)
    select = _selection(captions_per_image, joined)
    cluster = cluster_config(on, staging, encoders, gpus_per_encoder)
    opened = open_measured(
        datasets,
        root,
        split=split,
        langs=langs,
        model=model,
        runtime=runtime,
        device=device,
        cache=cache,
        no_cache=no_cache,
    )
    per_image = f"joined {joined}" if joined else captions_per_image
    results = measure_each(
        opened,
        select,
        captions_per_image=per_image,
        out=out,
        json_output=json_output,
        drafts=drafts,
        cluster=cluster,
    )
    if not json_output:
        with console.results():
            console.out.print(recall_table(results, against=against is not None))
            print_notes(results)


def measure_each(
    opened: "Sequence[Measured]",
    select: "Callable[[RetrievalSet], RetrievalSet]",
    *,
    captions_per_image: str,
    out: Path | None,
    json_output: bool,
    drafts: bool = False,
    cluster: "ClusterConfig | None" = None,
) -> "list[RetrievalResult]":
    """Measure data sets one after the other; each result is printed as JSON and written as soon as it is there."""
    from llm2clip_search.benchmarks.results import write_results
    from llm2clip_search.benchmarks.retrieval import measure_retrieval

    results: list[RetrievalResult] = []
    with ProgressBar() as progress:
        for measured in opened:
            for result in measure_retrieval(
                measured.encoder,
                select(measured.dataset),
                captions_per_image=captions_per_image,
                trained_on=measured.trained_on,
                drafts=drafts,
                cache=measured.cache,
                cluster=cluster,
                progress=progress,
            ):
                results.append(result)
                if json_output:
                    with console.results():
                        console.print_json(result.to_dict())
                if out is not None:
                    write_results(out, results)  # after each, so that an interrupted run leaves its results
    return results


def print_notes(results: "Sequence[RetrievalResult]") -> None:
    """Print what a reader of the results must know, below their table."""
    from rich.markup import escape

    for note in dict.fromkeys(f"{r.dataset}: {note}" for r in results for note in r.notes):
        console.out.print(f"[dim]{escape(note)}[/dim]")


def _selection(captions_per_image: str, joined: int) -> "Callable[[RetrievalSet], RetrievalSet]":
    """A function that selects the requested captions of a data set."""
    from llm2clip_search.errors import CorpusError

    if joined:
        note = f"up to {joined} captions of an image joined into one"
        return lambda found: found.changed(lambda captions: captions.joined(joined), note)
    if captions_per_image == "all":
        return lambda found: found
    if not captions_per_image.isdecimal() or captions_per_image == "0":
        raise CorpusError(f"--captions-per-image must be all or a positive number, not {captions_per_image!r}.")
    count = int(captions_per_image)
    note = f"at most {count} captions per image, the first ones"
    return lambda found: found.changed(lambda captions: captions.first(count), note)


def recall_table(results: "Sequence[RetrievalResult]", *, against: bool = False) -> "Table":
    """Recalls with the intervals of R@1, a row for each result; below it published figures, if asked for."""
    from llm2clip_search.benchmarks.paper import headline_figures
    from llm2clip_search.benchmarks.suite import recall_cells
    from llm2clip_search.evaluation.metrics import KS

    recalls = [f"{way} retrieval R@{' / '.join(map(str, KS))}" for way in ("image", "text")]
    columns = ("data set", "language", "captions", "images", *recalls, "95 % intervals of R@1")
    table = console.table(*columns, left=[column for column in columns if column not in ("captions", "images")])
    for result in results:
        bounds = [result.intervals[f"{way}_recall@1"] for way in ("image_retrieval", "text_retrieval")]
        cells = (*recall_cells(result.metrics), "  ".join(f"{100 * low:.1f}-{100 * high:.1f}" for low, high in bounds))
        name = f"{result.dataset} {result.split}" + (" (trained on)" if result.trained_on else "")
        table.add_row(name, result.language, f"{result.captions:,}", f"{result.images:,}", *cells)
        for figure in headline_figures(result) if against else ():
            printed = [figure.printed(way) for way in ("image_retrieval", "text_retrieval")]
            table.add_row(f"[dim]  {figure.model}[/dim]", "", "", "", *printed, f"[dim]{figure.source}[/dim]")
    return table
