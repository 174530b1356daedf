"""``llm2clip-search query``: search one or several indices."""

import gc
from collections.abc import Iterator
from itertools import tee
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.batch import STDIN, count_captions, read_captions, typed_captions
from llm2clip_search.cli.hits import LABELS, Style, form_of, print_head, print_hits, style_of
from llm2clip_search.cli.options import Device, EngineUrl, IndexFolders, ModelName, QuantizeName, RuntimeName
from llm2clip_search.cli.sources import say_if_moved

if TYPE_CHECKING:
    from llm2clip_search.engine import Result, Searcher
    from llm2clip_search.engine.query import QueryOptions


HEADING = 120
"""Characters of a caption that the heading of its table shows."""


def query(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="A caption, as long and precise as you like; - reads captions from stdin, one per line. Several need"
            " --fuse, and --batch answers each by itself.",
            show_default=False,
            metavar="CAPTION",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            help="Find images like this one: a file, a part such as scan.pdf#page=3 or clip.mp4#t=12.5, or an address"
            " such as https://host/a.jpg; may be repeated.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            help="Find images like the indexed one with this id, or like this file; may be repeated. ID@2 is an image"
            " of the second --index.",
            show_default=False,
            metavar="ID|FILE",
        ),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(help="Find images that are less like this one.", show_default=False, metavar="ID|FILE"),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            help="A caption to add, optionally with a weight as in 'at night^0.5'; may be repeated.",
            show_default=False,
            metavar="CAPTION",
        ),
    ] = None,
    sub: Annotated[
        list[str] | None, typer.Option(help="A caption to subtract.", show_default=False, metavar="CAPTION")
    ] = None,
    fuse: Annotated[
        Literal["mean", "max", "rank"] | None,
        typer.Option(
            help="How several captions make one ranking: mean of their vectors, score of the best matching caption"
            " (max), or reciprocal rank fusion (rank).",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Answer each line of this file, or of stdin for -, as a query of its own.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--limit", help="Number of results.")] = 10,
    offset: Annotated[int, typer.Option(help="Skip this many top results (paging).")] = 0,
    threshold: Annotated[
        float | None, typer.Option(help="Lowest cosine to show, from -1 to 1.", show_default=False)
    ] = None,
    find: Annotated[
        Literal["images", "texts"] | None,
        typer.Option(
            help="What to look for. Default: what the index holds, and images if it holds both.", show_default=False
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition, as in \"width > 1000 AND path LIKE '%/2024/%'\".", show_default=False),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            help="Share of the exact results that approximate search aims at; 1 is exact search. Default: what the"
            " index was built for.",
            show_default=False,
        ),
    ] = None,
    diverse: Annotated[
        bool, typer.Option("--diverse", help="Put results that differ from each other first, among the best 100.")
    ] = False,
    group_duplicates: Annotated[
        float | None,
        typer.Option(
            help="Show images whose cosine is at least this much, such as 0.95, as one result.",
            show_default=False,
            metavar="COSINE",
        ),
    ] = None,
    unique: Annotated[bool, typer.Option("--unique", help="Show files with the same content once.")] = False,
    per_file: Annotated[
        int | None,
        typer.Option(
            help="Show at most so many results of one file, such as pages of a document or frames of a video.",
            show_default=False,
            metavar="N",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="Order the -k best results by a column, such as taken, mtime, path or size; -taken is descending."
            " Default: by score.",
            show_default=False,
            metavar="[-]COLUMN",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print how the search was done and what it took.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    csv_output: Annotated[
        bool, typer.Option("--csv", help="Comma-separated values in UTF-8, after a line with the names of the columns.")
    ] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print paths only, one per line.")] = False,
    null: Annotated[bool, typer.Option("-0", "--null", help="Print paths only, each ended by a zero byte.")] = False,
    preview: Annotated[
        bool | None,
        typer.Option(
            "--preview/--no-preview",
            help="Thumbnails in the table. Default: if the terminal can show them.",
            show_default=False,
        ),
    ] = None,
    index: IndexFolders = None,
    engine: EngineUrl = None,
    model: ModelName = None,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    quantize: QuantizeName = "none",
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Embed the captions again, and do not keep their embeddings for the next query.",
        ),
    ] = False,
) -> None:
    """Find images or texts by captions, images, indexed images, or sums of these.

    Filters are applied before the search. Scores are cosines. Images and captions to add or subtract may end in a
    weight, as in beach.jpg^0.5. Columns for --where: id, path, content_hash, size, mtime, width, height, format, taken,
    camera, latitude, longitude, corpus, damage, modality, text, caption, rating, keywords, and those of sources.

    [dim]llm2clip-search query "two children in red jackets climb a wet rock" -k 5[/dim]
    [dim]llm2clip-search query --image beach.jpg --add "at night" --sub "people^0.5"[/dim]
    [dim]llm2clip-search query --like 4711 --like 4713 --unlike 12^0.5 --diverse[/dim]
    [dim]llm2clip-search query "a dog swims" "a wet dog" --fuse max --group-duplicates 0.95[/dim]
    [dim]llm2clip-search query --batch captions.txt --json --index 2023 --index 2024[/dim]
    [dim]llm2clip-search query "a dog swims" --engine qdrant:http://localhost:6333/photos[/dim]
    [dim]generate-caption | llm2clip-search query - --unique --sort -taken --csv[/dim]
    """
    form = form_of(json_output=json_output, csv_output=csv_output, paths=paths, null=null)
    captions = _batch(batch, text, fuse) if batch is not None else None
    typed = typed_captions(text or [])
    from llm2clip_search.engine import open_index

    options: QueryOptions = {
        "image": image,
        "like": like,
        "unlike": unlike,
        "add": add or (),
        "sub": sub or (),
        "fuse": fuse,
        "k": k,
        "offset": offset,
        "threshold": threshold,
        "find": find,
        "where": where,
        "recall": recall,
        "diverse": diverse,
        "group_duplicates": group_duplicates,
        "unique": unique,
        "per_file": per_file,
        "sort": sort,
    }
    opened = open_index(
        index or None,
        model=model,
        runtime=runtime,
        device=device,
        quantize=quantize,
        keep_captions=not no_cache,
        captions=typed,
        engine=engine,
    )
    if form == "table":
        console.load_tables()  # while the captions are embedded
    # What is imported by now stays. Looking for garbage in it when the interpreter ends takes an eighth of a query.
    gc.freeze()
    is_grouped = group_duplicates is not None
    style = style_of(opened, form, preview=preview, is_grouped=is_grouped, is_batch=captions is not None)
    if captions is None:
        results = [opened.query(typed, **options)]
        _print(results[0], style)
    else:
        assert batch is not None, "captions come from it"
        results = _answer(opened, captions, options, style, total=count_captions(batch))
    if engine is None or index:
        for part in opened.parts:
            say_if_moved(part.indexed)
    if explain:
        _explain(results, opened, per="" if batch is None else " per caption")
        if batch is None and any(plan.point is not None for plan in results[0].plans):
            exactly: QueryOptions = {**options, "recall": 1.0}
            _compare(results[0], opened.query(typed, **exactly))


def _batch(batch: str, text: list[str] | None, fuse: str | None) -> Iterator[tuple[int, str]]:
    """The captions of a batch; a file without any is refused before a model is loaded."""
    from llm2clip_search.errors import QueryError

    if text:
        name = "stdin" if batch == STDIN else batch
        raise QueryError(
            f"The captions come from {name}, but {text[0]!r} is given as well.", hint="Drop one, or use --add."
        )
    if fuse is not None:
        raise QueryError("Each caption of a batch is a query of its own, so there is nothing to fuse.")
    return read_captions(batch)


def _print(result: "Result", style: Style) -> None:
    for warning in result.warnings:
        console.warn(warning)
    if style.form == "table" and not result.hits:
        console.say(f"No {result.find[:-1]} matches the query.")
        return
    with console.results():
        print_head(style)
        print_hits(result, style)


def _answer(
    opened: "Searcher", captions: Iterator[tuple[int, str]], options: "QueryOptions", style: Style, *, total: int
) -> list["Result"]:
    """Print the answers to a batch as they come; returns the last one."""
    from rich.markup import escape

    from llm2clip_search.cli.progress import ProgressBar  # a single query shows no bar, and need not wait for rich's

    asked, shown = tee(captions)
    answers = opened.query_batch((caption for _, caption in asked), **options)
    last: list[Result] = []
    with ProgressBar() as progress, console.results():
        print_head(style)
        for done, (result, (line, caption)) in enumerate(zip(answers, shown, strict=False), start=1):
            for warning in result.warnings:
                console.warn(f"Line {line:,}: {warning}")
            if not result.hits:
                console.say(f"Line {line:,}: No {result.find[:-1]} matches the query.")
            elif style.form == "table":
                shown_caption = caption if len(caption) <= HEADING else f"{caption[:HEADING]}..."
                console.out.print(f"[bold]{line}: {escape(console.printable(shown_caption))}[/bold]")
                print_hits(result, style)
                console.out.print()
            else:
                print_hits(result, style, labels=dict(zip(LABELS, (caption, line), strict=True)))
            if total and not console.out.is_terminal:
                progress("captions", done, total, {})
            last = [result]
    return last


def _explain(results: list["Result"], opened: "Searcher", *, per: str) -> None:
    for result in results:
        if len({name for part in opened.parts for name in part.snapshot.modalities}) > 1:
            others = "images" if result.find == "texts" else "texts"
            console.say(f"find: {result.find}; {others} are not compared")
        for part, plan in zip(opened.parts, result.plans, strict=True):
            name = f" of {part.snapshot.folder}" if len(opened.parts) > 1 else ""
            console.say(f"plan{name}: {plan.strategy} on the {plan.device}: {plan.reason}")
            if plan.point is not None:
                entry = part.snapshot.manifest.ann
                asked = "queries" if entry is None or plan.device == "engine" else entry.queries
                console.say(
                    f"      effort {plan.effort}, {plan.candidates:,} candidates: recall@{plan.point.depth}"
                    f" {plan.point.recall:.3f} for {asked} when it was"
                    f" {'published' if plan.device == 'engine' else 'built'}"
                )
            if plan.tail:
                console.say(f"      {plan.tail:,} rows that are not in it yet are compared as well")
    console.say(f"model: {opened.encoder.name} ({opened.encoder.fingerprint})")
    for result in results:
        times = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in result.seconds.items())
        console.say(f"time{per}: {times}")


def _compare(result: "Result", exact: "Result") -> None:
    """Say what an approximate search missed."""
    found = {(hit.index, hit.id) for hit in result.hits}
    common = sum((hit.index, hit.id) in found for hit in exact.hits)
    took = 1000 * exact.seconds["search"]
    console.say(f"check: {common} of the {len(exact.hits)} exact results, which took {took:.0f} ms to find")
