"""``llm2clip-search index``: create an index of images, or bring one up to date."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from llm2clip_search.base.visible import visible
from llm2clip_search.cli import console
from llm2clip_search.cli.approximate import ann_config
from llm2clip_search.cli.cluster_options import (
    DryRun,
    Encoders,
    GpusPerEncoder,
    NodePrice,
    On,
    Staging,
    cluster_config,
)
from llm2clip_search.cli.estimate import print_estimate
from llm2clip_search.cli.options import AnnKind, Device, Memory, ModelName, Recall, RuntimeName
from llm2clip_search.cli.progress import ProgressBar
from llm2clip_search.cli.sources import option_of
from llm2clip_search.cli.stopping import Stopped, stopped_between_items

if TYPE_CHECKING:
    from llm2clip_search.corpora import Corpus
    from llm2clip_search.indexers import IndexSummary


def index(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="A folder, a file, a pattern such as 'shards/{000..099}.tar', a list of paths or URLs, - for a list on"
            " stdin, or the address of any of these, such as s3://bucket/photos.",
            show_default=False,
            metavar="SOURCE...",
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
    kind: Annotated[
        Literal["folder", "tar", "table", "list", "pdf", "video", "text"] | None,
        typer.Option("--as", help="What the source is. Default: told from what it is.", show_default=False),
    ] = None,
    modality: Annotated[
        Literal["image", "text"], typer.Option(help="Index the images of the source, or its texts.")
    ] = "image",
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
    image: Annotated[
        str | None,
        typer.Option(
            help="Column of a table that holds images, their paths or URLs. Default: told from the table.",
            show_default=False,
            metavar="COLUMN",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="Column of a table that holds the texts, with --modality text. Default: told from the table.",
            show_default=False,
            metavar="COLUMN",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Columns of the source that the index keeps, as in 'caption,license'; '*' for all. Default: as the"
            " last time, else all.",
            show_default=False,
            metavar="NAMES",
        ),
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option(
            help="A table whose columns are joined to the images; also later, without embedding them again.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    no_metadata: Annotated[
        bool, typer.Option("--no-metadata", help="Join no table any more, and remove the columns that it has given.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(
            help="Column of --metadata that names the images: by path, file name or stem. Default: told from it.",
            show_default=False,
            metavar="COLUMN",
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            help="Time between two indexed frames of a video, as in 2s or 1m; 'scenes' for one frame a scene.",
            show_default=False,
            metavar="TIME",
        ),
    ] = None,
    separate_raw: Annotated[
        bool | None,
        typer.Option(
            "--separate-raw/--no-separate-raw",
            help="A RAW file beside a JPEG of the same name is an image by itself. Default: no.",
            show_default=False,
        ),
    ] = None,
    null: Annotated[
        bool, typer.Option("-0", "--null", help="The list on stdin has a zero byte behind each path.")
    ] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Fetch URLs that lead into this machine or a private network too.")
    ] = False,
    rehash: Annotated[
        bool,
        typer.Option("--rehash", help="Read all images and compare contents, also where size and times are unchanged."),
    ] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Remove the images of folders that have become empty, which are otherwise kept."),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images of a batch, by default 32, or 256 on an NVIDIA GPU. On a CPU it is embedded in parts.",
            show_default=False,
        ),
    ] = None,
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
    isolate: Annotated[
        bool | None,
        typer.Option(
            "--isolate/--no-isolate",
            help="Decode images in processes that can be killed, with limits of time and memory for each file. Default:"
            " those that have an address; all on a GPU, which threads of one process cannot keep busy.",
            show_default=False,
        ),
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
    on: On = None,
    staging: Staging = None,
    encoders: Encoders = None,
    gpus_per_encoder: GpusPerEncoder = 1.0,
    dry_run: DryRun = False,
    node_price: NodePrice = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Index images or texts, or bring their index up to date.

    A source is a folder, an archive (webdataset tar), a table (Parquet, Arrow, CSV, JSON lines) with images or with
    their paths or URLs, a data set of Hugging Face, a PDF, a video, a list, or text. Unchanged files are not embedded
    again, renamed files keep their vector, and deleted files are removed from the index. Images that cannot be read are
    listed in failures.parquet in the index folder. Options of a source are remembered.

    [dim]llm2clip-search index ./images --exclude 'thumbs/'[/dim]
    [dim]llm2clip-search index 'shards/{000..099}.tar'[/dim]
    [dim]llm2clip-search index photos.parquet --columns caption,license[/dim]
    [dim]find / -name '*.jpg' -print0 | llm2clip-search index - -0[/dim]
    [dim]llm2clip-search index captions.parquet --modality text --text caption[/dim]
    [dim]llm2clip-search index s3://bucket/shards --on ray --staging s3://bucket/staging[/dim]
    """
    from llm2clip_search.corpora import SourceOptions
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.encoders.registry import DEFAULT_MODEL
    from llm2clip_search.indexers import AnnConfig, IndexConfig, LocalEmbedding, index_corpus, open_sources
    from llm2clip_search.indexers.on_ray import RayEmbedding
    from llm2clip_search.store import Snapshot, default_index, has_index

    if exclude and no_exclude:
        raise typer.BadParameter("--exclude and --no-exclude contradict each other.")
    if no_metadata and (metadata or key):
        raise typer.BadParameter("--no-metadata contradicts --metadata and --key.")
    cluster = cluster_config(on, staging, encoders, gpus_per_encoder)
    if cluster is None and (dry_run or node_price is not None):
        raise typer.BadParameter("--dry-run and --node-price need --on ray.")
    target = index or default_index()
    snapshot = Snapshot(target) if has_index(target) else None
    asked: dict[str, Any] = {
        "kind": kind,
        "exclude": () if no_exclude else None if exclude is None else tuple(exclude),
        "everything": everything,
        "image": image,
        "text": text,
        "columns": None if columns is None else tuple(name.strip() for name in columns.split(",") if name.strip()),
        "metadata": "" if no_metadata else None if metadata is None else str(metadata.absolute()),
        "on": "" if no_metadata else key,
        "every": None if every is None else seconds_of(every),
        "separate_raw": separate_raw,
        "null_separated": null or None,
        "allow_private": allow_private or None,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    given |= {"columns": None} if columns == "*" else {}
    corpora = open_sources(sources, snapshot, SourceOptions(modality=modality, **given), given=given)
    manifest = snapshot.manifest if snapshot is not None else None
    del snapshot  # its lease would keep the files that this run replaces
    if model is None:
        model = manifest.model.name if manifest else DEFAULT_MODEL
    chosen = {"threads": threads, "max_pixels": max_pixels}
    config = IndexConfig(
        batch_size=batch_size,
        rehash=rehash,
        forget=forget,
        isolate=isolate,
        ann=ann_config((manifest.ann_config if manifest else None) or AnnConfig(), ann, recall, memory),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    encoder = load_encoder(model, runtime=runtime, device=device)
    if cluster is not None and dry_run:
        for corpus in corpora:
            print_estimate(corpus, encoder, target, config, cluster, node_price, json_output=json_output)
        return
    failed = 0
    for corpus in corpora:
        _say_remembered(corpus, given)
        try:
            with ProgressBar() as bar, stopped_between_items(bar) as progress:
                summary = index_corpus(
                    corpus,
                    encoder=encoder,
                    index=target,
                    config=config,
                    embedding=LocalEmbedding() if cluster is None else RayEmbedding(cluster),
                    progress=progress,
                )
        except Stopped as stopped:
            kept = console.images(Snapshot(target).manifest.live) if has_index(target) else "nothing"
            console.say(f"stopped by {stopped}; the index holds {kept}, and the same command goes on from there")
            raise typer.Exit(stopped.exit_code) from stopped
        if json_output:
            with console.results():
                console.print_json(summary.to_dict())
        else:
            _print(summary, shown=5, named=len(corpora) > 1)
        failed += summary.failed
    if max_failures is not None and failed > max_failures:
        console.say(f"{failed} images failed, more than the {max_failures} that --max-failures allows.")
        raise typer.Exit(1)
    if failed and not summary.total:
        raise typer.Exit(1)


def seconds_of(text: str) -> float:
    """Seconds of a time such as ``2s``, ``0.5`` or ``1m``; 0 for ``scenes``."""
    if text == "scenes":
        return 0.0
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(s|m|h)?", text.strip())
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"] if match else 0.0
    if not seconds:
        raise typer.BadParameter(f"{text!r} is not a time, as in 2s or 1m, nor 'scenes'.", param_hint="--every")
    return seconds


def _say_remembered(corpus: "Corpus", given: Mapping[str, Any]) -> None:
    """What is as the last time without being asked for."""
    if "exclude" not in given and corpus.exclude:
        patterns = ", ".join(map(repr, corpus.exclude))
        console.say(f"excluding {patterns}, as the last time; --exclude names other patterns, --no-exclude none")
    if "everything" not in given and corpus.everything:
        console.say("reading hidden files and system folders, as the last time; --no-all skips them")
    for name, value in corpus.options.items():
        if name not in given and name != "kind" and value != "":
            console.say(f"{option_of(name, value)}, as the last time")


def _print(summary: "IndexSummary", *, shown: int, named: bool) -> None:
    """Print a summary.

    Args:
        shown: failures that are listed.
        named: say which source it is of.
    """
    counts = [
        (summary.indexed, "indexed"),
        (summary.reused, "moved or copied"),
        *([(summary.redescribed, "with new columns")] if summary.redescribed else []),
        (summary.unchanged, "unchanged"),
    ]
    counts += [(summary.removed, "removed"), (summary.failed, "failed")]
    unit = "texts" if summary.modality == "text" else "images"
    rate = f", {summary.indexed / summary.elapsed:,.0f} {unit}/s" if summary.indexed else ""
    parts = ", ".join(f"{count:,} {name}" for count, name in counts)
    name = f"{visible(summary.root)}: " if named else ""
    console.out.print(f"{escape(name)}{parts} in {summary.elapsed:.1f} s{rate}")
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.seconds.items())
    console.say(f"  {stages} (read and decode run in threads, beside encode)")
    for node in summary.nodes:
        console.say(f"  {node['name']}: {node['embedded']:,} {unit}, {node['rate']:,.1f} {unit}/s")
    if summary.damaged:
        console.say(f"  {summary.damaged:,} of the indexed images with damage: --where 'damage IS NOT NULL' finds them")
    for failure in summary.failures[:shown]:
        console.warn(f"'{console.printable(failure['path'])}': {failure['reason']}")
    if summary.failed > shown:
        console.warn(f"... and {summary.failed - shown} more in {Path(summary.index) / 'failures.parquet'}")
    if any("private network" in failure["reason"] for failure in summary.failures):
        console.say("  --allow-private fetches from addresses of this machine and of private networks too")
    for column, count in summary.untyped.items():
        console.warn(f"{count:,} values of column {column!r} are left out: they do not have its type")
    for column in summary.absent:
        console.warn(f"nothing has a column {visible(column)!r}, which --columns names")
    for folder in summary.unreadable:
        console.warn(f"{visible(folder)}; images below it stay in the index")
    for part, count in summary.vacant.items():
        kept = f"the index keeps {console.images(count)} below it"
        console.warn(f"{visible(part)} is empty or gone; {kept}. Is a disk not mounted? --forget removes them")
    for part, count in summary.missing.items():
        kept = f"the index keeps {console.images(count)} of it"
        console.warn(f"{visible(part)} is missing; {kept}. 'sources move' follows it, 'sources forget' removes them")
    if summary.followed:
        console.warn(f"the index has moved, but its images are still in {summary.followed}; their paths lead there now")
    for reason in summary.skipped.reasons():
        console.say(f"  {reason}")
    search = f"approximate search ({summary.ann})" if summary.ann else "exact search"
    console.say(f"  {console.counted(summary.total, summary.holds)} in {summary.index}, {search}")
