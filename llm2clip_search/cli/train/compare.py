"""``llm2clip-search train compare``: what differs between finished runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm2clip_search.base.visible import visible
from llm2clip_search.cli import console
from llm2clip_search.errors import InputError

if TYPE_CHECKING:
    from llm2clip_search.training.compare_runs import RecallOfRun, TrainingRunsComparison


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of finished runs, or their model folders.")
    ],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
) -> None:
    """Compare finished runs with the first: recipes, data, recalls of the kept weights, steps and time.

    Recalls have 95 % intervals. Where two runs were evaluated on the same images and captions, so have differences.

    [dim]llm2clip-search train compare birds-run longer[/dim]
    """
    from llm2clip_search.training.compare_runs import compare_training_runs, read_run

    if len(set(runs)) < len(runs) or len(runs) < 2:
        raise InputError(f"At least two different runs are compared, but {', '.join(map(str, runs))} was given.")
    found = compare_training_runs([read_run(run) for run in runs])
    with console.results():
        if json_output:
            for row in [*(each.to_dict() for each in found.fields), *(each.to_dict() for each in found.recalls)]:
                console.print_json(row)
            return
        _print_tables(found)


def _print_tables(found: "TrainingRunsComparison") -> None:
    left = ("", "field")
    table = console.table(*left, *found.runs, left=(*left, *found.runs))
    part = ""
    for each in found.fields:
        cells = (visible(_value(value)) for value in each.values.values())
        table.add_row(each.part if each.part != part else "", each.field, *cells)
        part = each.part
    if found.fields:
        console.out.print(table)
        console.out.print()
    recall_columns = ("split", "language", "metric (%)")
    table = console.table(*recall_columns, *found.runs, left=recall_columns)
    rows = len(found.runs)
    before: tuple[str, str] | None = None
    for start in range(0, len(found.recalls), rows):
        first, *others = found.recalls[start : start + rows]
        subset = (first.split, first.language)
        table.add_row(*(subset if subset != before else ("", "")), first.metric, _first(first), *map(_other, others))
        before = subset
    if found.recalls:
        console.out.print(table)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _first(recall: "RecallOfRun") -> str:
    if recall.value is None:
        return "-"
    low, high = recall.low, recall.high
    bounds = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * recall.value:.1f}{bounds}"


def _other(recall: "RecallOfRun") -> str:
    """A recall, and its difference from that of the first run with the interval, or else with its own interval."""
    if recall.value is None or recall.difference is None:
        return _first(recall)
    low, high = recall.difference_low, recall.difference_high
    bounds = "" if low is None or high is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{100 * recall.value:.1f} {100 * recall.difference:+.1f}{bounds}"
