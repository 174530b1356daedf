"""``llm2clip-search publish``: copy an index to a serving engine."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from llm2clip_search.base.visible import visible
from llm2clip_search.cli import console
from llm2clip_search.cli.approximate import captions_of
from llm2clip_search.cli.options import IndexFolder
from llm2clip_search.cli.progress import ProgressBar, duration

if TYPE_CHECKING:
    from llm2clip_search.indexers.publish import PublishSummary
    from llm2clip_search.vectorindex.serving.state import Measured, Published


def publish(
    to: Annotated[
        str | None,
        typer.Option(
            help="qdrant:http://HOST:6333/COLLECTION, qdrant-edge:FOLDER, lance:FOLDER or lance:s3://BUCKET/PATH. The"
            " default collection is named as the folder of the images.",
            show_default=False,
            metavar="URL",
        ),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            help="Show what was published there, when, and with which recall; no index is needed.",
            show_default=False,
            metavar="URL",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and count, and send nothing.")] = False,
    index: IndexFolder = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Copy an index to a serving engine, or bring over what was committed since the last time.

    Vectors, ids and all columns are copied; `query --engine` and `serve --engine` then search there. A publish that was
    interrupted goes on when it is run again. At the end, counts and a sample of rows are compared, and recall and times
    are measured with filters and without. The token of a Qdrant server is that of QDRANT_API_KEY.

    [dim]llm2clip-search publish --to qdrant:http://localhost:6333[/dim]
    [dim]llm2clip-search publish --to lance:s3://bucket/photos --index photos/.llm2clip[/dim]
    [dim]llm2clip-search publish --status qdrant:http://localhost:6333/photos[/dim]
    """
    from llm2clip_search.errors import QueryError

    if (to is None) == (status is None):
        raise QueryError(
            "Publishing needs the URL of an engine, and only one.", hint="Give --to URL, or --status URL to look at it."
        )
    if status is not None:
        _show_status(status, json_output=json_output)
        return
    assert to is not None, "one of the two is given"
    from llm2clip_search.indexers.publish import publish_index
    from llm2clip_search.store import Manifest, find_index

    folder = index or find_index()
    captions = captions_of(Manifest.read(folder).model)
    with ProgressBar() as progress:
        summary = publish_index(folder, to, captions=captions, dry_run=dry_run, progress=progress)
    if json_output:
        console.print_json(summary.to_dict())
    else:
        _show(summary)


def _show(summary: "PublishSummary") -> None:
    changes = f"{summary.added:,} rows added, {summary.changed:,} changed, {summary.deleted:,} deleted"
    if summary.is_dry_run:
        console.out.print(f"would be: {changes}")
        return
    console.out.print(
        f"{escape(visible(summary.engine))} holds {console.images(summary.rows)}: {changes} in"
        f" {duration(summary.seconds)}; {summary.checked:,} rows compared"
    )
    if summary.measured is not None:
        _show_measured(summary.measured)


def _show_status(url: str, *, json_output: bool) -> None:
    from llm2clip_search.errors import EngineError
    from llm2clip_search.vectorindex.serving.opening import open_engine

    engine = open_engine(url)
    try:
        state = engine.state()
        if state is None:
            raise EngineError(f"{engine.name} does not exist.", hint="'llm2clip-search publish --to URL' creates it.")
        held = engine.count()
    finally:
        engine.close()
    if json_output:
        console.print_json({"engine": engine.name, "held": held, **state.to_dict()})
        return
    for name, value in _lines(engine.name, state, held).items():
        console.out.print(f"[bold]{name:>9}[/bold]  {escape(visible(value))}")
    if state.measured is not None:
        _show_measured(state.measured)


def _lines(name: str, state: "Published", held: int) -> dict[str, str]:
    when = _age(state.published) if state.published else "not yet"
    return {
        "engine": name,
        "index": f"{state.folder}, commit {state.generation:,}",
        "images": f"{held:,}" + ("" if held == state.rows else f" of {state.rows:,}"),
        "model": f"{state.model.name} ({state.model.fingerprint})",
        "vectors": f"{state.dim} x {state.dtype}",
        "published": when if state.is_complete else f"{when}; a later publish did not end, run it again",
    }


def _age(published: str) -> str:
    """``2026-11-26T13:05:26+00:00, 12 min ago``."""
    from datetime import UTC, datetime

    seconds = (datetime.now(UTC) - datetime.fromisoformat(published)).total_seconds()
    return f"{published}, {duration(max(0.0, seconds))} ago"


def _show_measured(measured: "Measured") -> None:
    table = console.table("rows searched", "ef", "recall@10", "median ms", "95 % ms")
    for point in measured.points:
        share = "all" if point.share == 1.0 else f"{point.share:.1%}"
        times = (f"{point.milliseconds:.1f}", f"{point.p95_ms:.1f}")
        effort = "compared" if point.effort is None else str(point.effort)
        table.add_row(share, effort, f"{point.recall:.3f}", *times)
    console.out.print(table)
    console.out.print(f"measured with {measured.queries}; exact search takes {measured.exact_ms:.1f} ms here")
