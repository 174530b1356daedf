"""``llm2clip-search index``: a folder of images into an index, or an index up to date."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import Device, ModelName, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    from llm2clip_search.indexers import IndexSummary


def index(
    folder: Annotated[Path, typer.Argument(help="Folder of images; everything below it is read.", show_default=False)],
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            help="Index folder. Default: the nearest .llm2clip upward, else a new one here.",
            show_default=False,
        ),
    ] = None,
    model: ModelName = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="gitignore pattern of what to skip; may be repeated.", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a call of the vision tower.")] = 32,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that read and decode. Default: the cores, at most 16.", show_default=False),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Images that declare more pixels fail. Default: 200 million.", show_default=False),
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option(min=0, help="Exit with 1 when more images than this fail. Default: no limit.", show_default=False),
    ] = None,
    ann: Annotated[
        Literal["auto", "flat", "hnsw", "ivf"],
        typer.Option(help="Approximate index: auto builds HNSW from 100,000 images and IVF from a million."),
    ] = "auto",
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Index a folder of images, or bring its index up to date.

    Unchanged files are not embedded again, renamed ones keep their vector, deleted ones are forgotten.
    Images that cannot be read are listed in failures.parquet of the index folder.

    [dim]llm2clip-search index ./images --exclude 'thumbs/'[/dim]
    """
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.encoders.registry import DEFAULT_MODEL
    from llm2clip_search.indexers.ann import AnnConfig
    from llm2clip_search.indexers.folder import FolderConfig, index_folder
    from llm2clip_search.store import Manifest, default_index

    target = index or default_index()
    if model is None:
        model = Manifest.read(target).model.name if (target / "manifest.json").exists() else DEFAULT_MODEL
    chosen = {"threads": threads, "max_pixels": max_pixels}
    config = FolderConfig(
        batch_size=batch_size,
        exclude=tuple(exclude or ()),
        ann=AnnConfig(kind=ann),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    encoder = load_encoder(model, runtime=runtime, device=device)
    with ProgressBar() as progress:
        summary = index_folder(folder, encoder=encoder, index=target, config=config, progress=progress)
    if json_output:
        import json

        with console.results():
            print(json.dumps(summary.to_dict()))
    else:
        _print(summary, shown=5)
    if max_failures is not None and summary.failed > max_failures:
        console.say(f"{summary.failed} images failed, more than --max-failures {max_failures}.")
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
    console.say(f"  {stages} (read and decode run in threads beside encode)")
    for failure in summary.failures[:shown]:
        console.warn(f"{failure['path']!r}: {failure['reason']}")
    if summary.failed > shown:
        console.warn(f"... and {summary.failed - shown} more in {Path(summary.index) / 'failures.parquet'}")
    for folder in summary.unreadable:
        console.warn(f"{folder}; what was known below it is kept")
    search = f"approximate search ({summary.ann})" if summary.ann else "exact search"
    console.say(f"  {summary.total:,} images in {summary.index}, {search}")
