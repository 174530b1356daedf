"""``llm2clip-search index``: create an index of images, or bring one up to date."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.approximate import ann_config
from llm2clip_search.cli.options import AnnKind, Device, Memory, ModelName, Recall, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    from llm2clip_search.indexers import IndexSummary


def index(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images, subfolders included, or the URI of a corpus that an installed package adds.",
            show_default=False,
        ),
    ],
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            help="Index folder. Default: the nearest .llm2clip in or above this folder, else a new one here.",
            show_default=False,
        ),
    ] = None,
    model: ModelName = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", help="Skip what matches this gitignore pattern; may be repeated.", show_default=False
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per call of the vision tower.")] = 32,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads that read and decode. Default: one per core, at most 16.", show_default=False
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Images with more pixels fail. Default: 200 million.", show_default=False),
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option(min=0, help="Exit with code 1 if more images fail. Default: no limit.", show_default=False),
    ] = None,
    ann: AnnKind = None,
    recall: Recall = None,
    memory: Memory = None,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Index a folder of images, or bring its index up to date.

    Unchanged files are not embedded again, renamed files keep their vector, and deleted files are removed from the
    index. Images that cannot be read are listed in failures.parquet in the index folder.

    [dim]llm2clip-search index ./images --exclude 'thumbs/'[/dim]
    """
    from llm2clip_search.corpora import open_corpus
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.encoders.registry import DEFAULT_MODEL
    from llm2clip_search.indexers import AnnConfig, IndexConfig, index_corpus
    from llm2clip_search.store import Manifest, default_index, has_index

    target = index or default_index()
    manifest = Manifest.read(target) if has_index(target) else None
    if model is None:
        model = manifest.model.name if manifest else DEFAULT_MODEL
    chosen = {"threads": threads, "max_pixels": max_pixels}
    config = IndexConfig(
        batch_size=batch_size,
        ann=ann_config((manifest.ann_config if manifest else None) or AnnConfig(), ann, recall, memory),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    corpus = open_corpus(source, exclude=exclude or ())
    encoder = load_encoder(model, runtime=runtime, device=device)
    with ProgressBar() as progress:
        summary = index_corpus(corpus, encoder=encoder, index=target, config=config, progress=progress)
    if json_output:
        with console.results():
            console.print_json(summary.to_dict())
    else:
        _print(summary, shown=5)
    if max_failures is not None and summary.failed > max_failures:
        console.say(f"{summary.failed} images failed, more than the {max_failures} that --max-failures allows.")
        raise typer.Exit(1)
    if summary.failed and not summary.total:
        raise typer.Exit(1)


def _print(summary: "IndexSummary", *, shown: int) -> None:
    counts = [
        (summary.indexed, "indexed"),
        (summary.reused, "moved or copied"),
        (summary.unchanged, "unchanged"),
    ]
    counts += [(summary.removed, "removed"), (summary.failed, "failed")]
    rate = f", {summary.indexed / summary.elapsed:,.0f} images/s" if summary.indexed else ""
    parts = ", ".join(f"{count:,} {name}" for count, name in counts)
    console.out.print(f"{parts} in {summary.elapsed:.1f} s{rate}")
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.seconds.items())
    console.say(f"  {stages} (read and decode run in threads, beside encode)")
    for failure in summary.failures[:shown]:
        console.warn(f"'{console.printable(failure['path'])}': {failure['reason']}")
    if summary.failed > shown:
        console.warn(f"... and {summary.failed - shown} more in {Path(summary.index) / 'failures.parquet'}")
    for folder in summary.unreadable:
        console.warn(f"{console.visible(folder)}; images below it stay in the index")
    search = f"approximate search ({summary.ann})" if summary.ann else "exact search"
    console.say(f"  {summary.total:,} images in {summary.index}, {search}")
