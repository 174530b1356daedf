"""``llm2clip-search bench compare``: whether the difference between two encoders is more than chance."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench.measured import print_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from llm2clip_search.benchmarks.compare import RecallDifference


def bench_compare(
    a: Annotated[
        Path, typer.Argument(metavar="A.json", help="Results written by bench retrieval --out.", show_default=False)
    ],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Results of another encoder.", show_default=False)],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
) -> None:
    """Compare recalls of two runs on the same data: B - A, its 95 % interval and the p-value of a paired test.

    p is not corrected for multiple comparisons: of twenty rows that differ only by chance, one has p < 0.05.

    [dim]llm2clip-search bench compare nano.json clip.json[/dim]
    """
    from llm2clip_search.benchmarks.compare import compare_runs, subset_name
    from llm2clip_search.benchmarks.results import read_results

    found = compare_runs(read_results(a), read_results(b))
    for path, parts in ((a, found.only_a), (b, found.only_b)):
        if parts:
            console.warn(f"only {path} has {', '.join(map(subset_name, parts))}.")
    models = {model for row in found.differences for model in (row.model_a, row.model_b)}
    print_rows(
        (row.to_dict() for row in found.differences),
        lambda: _table(found.differences, (a, b), named=len(models) == 2),
        json_output=json_output,
    )


def _table(rows: "Sequence[RecallDifference]", files: tuple[Path, Path], *, named: bool) -> "Table":
    """Columns are named after the models, or after the files if the models have the same name."""
    first, second = (rows[0].model_a, rows[0].model_b) if named else map(str, files)
    left = ("data set", "language", "metric")
    table = console.table(*left, first, second, "difference", "95 % interval", "p", left=left)
    before = None
    for row in rows:
        part = (f"{row.dataset} {row.split}", row.language)
        bounds = f"{100 * row.low:+.1f} to {100 * row.high:+.1f}"
        figures = (f"{100 * row.a:.1f}", f"{100 * row.b:.1f}", f"{100 * row.difference:+.1f}", bounds, _p_value(row.p))
        table.add_row(*(part if part != before else ("", "")), row.metric, *figures)
        before = part
    return table


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
