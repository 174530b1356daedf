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
            "--exclude",
            help="Skip what matches this gitignore pattern; may be repeated. Default: as the last time.",
            show_default=False,
        ),
    ] = None,
    no_exclude: Annotated[bool, typer.Option("--no-exclude", help="Exclude nothing any more.")] = False,
    everything: Annotated[
        bool | None,
        typer.Option(
            "--all/--no-all",
            help="Read hidden files and system folders too. Default: as the last time, else no.",
            show_default=False,
        ),
    ] = None,
    rehash: Annotated[
        bool,
        typer.Option("--rehash", help="Read all images and compare contents, also where size and times are unchanged."),
    ] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Remove the images of folders that have become empty, which are otherwise kept."),
    ] = False,
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
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.encoders.registry import DEFAULT_MODEL
    from llm2clip_search.indexers import AnnConfig, IndexConfig, index_corpus, open_source
    from llm2clip_search.store import Snapshot, default_index, has_index

    if exclude and no_exclude:
        raise typer.BadParameter("--exclude and --no-exclude contradict each other.")
    target = index or default_index()
    snapshot = Snapshot(target) if has_index(target) else None
    corpus = open_source(source, snapshot, exclude=() if no_exclude else exclude, everything=everything)
    manifest = snapshot.manifest if snapshot is not None else None
    del snapshot  # its lease would keep the files that this run replaces
    if model is None:
        model = manifest.model.name if manifest else DEFAULT_MODEL
    chosen = {"threads": threads, "max_pixels": max_pixels}
    config = IndexConfig(
        batch_size=batch_size,
        rehash=rehash,
        forget=forget,
        ann=ann_config((manifest.ann_config if manifest else None) or AnnConfig(), ann, recall, memory),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    if exclude is None and corpus.exclude:
        patterns = ", ".join(map(repr, corpus.exclude))
        console.say(f"excluding {patterns}, as the last time; --exclude names other patterns, --no-exclude none")
    if everything is None and corpus.everything:
        console.say("reading hidden files and system folders, as the last time; --no-all skips them")
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
    if summary.damaged:
        console.say(f"  {summary.damaged:,} of the indexed images with damage: --where 'damage IS NOT NULL' finds them")
    for failure in summary.failures[:shown]:
        console.warn(f"'{console.printable(failure['path'])}': {failure['reason']}")
    if summary.failed > shown:
        console.warn(f"... and {summary.failed - shown} more in {Path(summary.index) / 'failures.parquet'}")
    for folder in summary.unreadable:
        console.warn(f"{console.visible(folder)}; images below it stay in the index")
    for part, count in summary.vacant.items():
        kept = f"the index keeps {console.images(count)} below it"
        console.warn(f"{console.visible(part)} is empty or gone; {kept}. Is a disk not mounted? --forget removes them")
    for part, count in summary.missing.items():
        kept = f"the index keeps {console.images(count)} of it"
        console.warn(
            f"{console.visible(part)} is missing; {kept}. 'sources move' follows it, 'sources forget' removes them"
        )
    if summary.followed:
        console.warn(f"the index has moved, but its images are still in {summary.followed}; their paths lead there now")
    for reason in summary.skipped.reasons():
        console.say(f"  {reason}")
    search = f"approximate search ({summary.ann})" if summary.ann else "exact search"
    console.say(f"  {console.images(summary.total)} in {summary.index}, {search}")
