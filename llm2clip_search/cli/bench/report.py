"""``llm2clip-search bench report``: a report on retrieval runs as Markdown, CSV and plots."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console


def bench_report(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Results written by bench retrieval --out.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to; created if needed.", show_default=False)],
    against: Annotated[
        Literal["paper"] | None, typer.Option(help="Include figures published in papers.", show_default=False)
    ] = None,
) -> None:
    """Write report.md, report.csv and plots of retrieval runs, and print the paths of these files.

    [dim]llm2clip-search bench report nano.json clip.json --out report --against paper[/dim]
    """
    from llm2clip_search.benchmarks.report import name_runs, write_report
    from llm2clip_search.benchmarks.results import read_results

    runs = name_runs({path: read_results(path) for path in files})
    written = write_report(runs, out, against=against is not None)
    with console.results():
        for path in written:
            print(path)
