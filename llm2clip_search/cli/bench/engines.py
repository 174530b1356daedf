"""``llm2clip-search bench engines``: serving engines beside the index itself."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.sizes import gigabytes

if TYPE_CHECKING:
    from rich.table import Table

    from llm2clip_search.benchmarks.perf.engines import Answers, Published


def bench_engines(
    rows: Annotated[int, typer.Option(min=1, help="Rows of the index that is published.")] = 1_000_000,
    dim: Annotated[int, typer.Option(min=2, help="Dimensions of the vectors.")] = 512,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENGINE",
            help="qdrant-edge, lance, or the URL of an empty collection as for publish; may be repeated."
            r" \[default: qdrant-edge, lance]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic rows.")] = 0,
    scratch: Annotated[
        Path | None,
        typer.Option(help="Folder for the temporary files, 8 kB per row at 512 dimensions.", show_default=False),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Publish an index of synthetic rows to serving engines, and measure recall and latency beside the index itself.

    Then 1,000 rows are changed, 1,000 are deleted, and the index is published again.

    [dim]llm2clip-search bench engines --rows 100000[/dim]
    """
    from llm2clip_search.benchmarks.perf.engines import LOCAL, benchmark_engines

    report = benchmark_engines(rows, dim=dim, to=to or LOCAL, seed=seed, scratch=scratch)
    with console.results():
        if json_output:
            print(json.dumps(report.to_dict()))
            return
        console.out.print(
            f"{report.rows:,} rows x {report.dim}: {gigabytes(report.index_size)} on disk, approximate index built in"
            f" {report.build_seconds:.0f} s; peak memory {report.peak_gb:.2f} GB"
        )
        console.out.print(_publishes(report.published, "publish"))
        console.out.print(_answers(report.answers, "searches, k = 10"))
        console.out.print(_publishes(report.updated, "publish after 1,000 changes and 1,000 deletions"))
        console.out.print(_answers(report.answers_after, "searches after it"))


def _publishes(published: "Iterable[Published]", title: str) -> "Table":
    table = console.table("engine", "added", "changed", "deleted", "s", "of these sent", "rows/s", "size", title=title)
    for each in published:
        sent = each.added + each.changed + each.deleted
        table.add_row(
            each.system,
            *(f"{count:,}" for count in (each.added, each.changed, each.deleted)),
            f"{each.seconds:,.1f}",
            f"{each.sent_seconds:,.1f}",
            f"{sent / each.seconds:,.0f}",
            "-" if each.size is None else gigabytes(each.size),
        )
    return table


def _answers(answers: "Iterable[Answers]", title: str) -> "Table":
    columns = ("searched in", "rows", "recall@10", "ms", "p95 ms", "condition ms", "plan")
    table = console.table(*columns, title=title, left=("plan",))
    for each in answers:
        table.add_row(
            each.system,
            each.share,
            f"{each.recall:.3f}",
            f"{each.ms:.2f}",
            f"{each.p95_ms:.2f}",
            f"{each.condition_ms:.2f}",
            each.plan,
        )
    return table
