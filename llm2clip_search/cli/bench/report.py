"""``llm2clip-search bench report``: retrieval runs as Markdown, CSV and pictures."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console


def bench_report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="What bench retrieval --out wrote.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to; it is made.", show_default=False)],
    against: Annotated[
        Literal["paper"] | None, typer.Option(help="Put published figures beside ours.", show_default=False)
    ] = None,
) -> None:
    """Write report.md, report.csv and pictures of retrieval runs; print the paths of what was written.

    [dim]llm2clip-search bench report nano.json clip.json --out report --against paper[/dim]
    """
    from llm2clip_search.benchmarks.report import name_runs, write_report
    from llm2clip_search.benchmarks.results import read_results

    runs = name_runs({path: read_results(path) for path in files})
    written = write_report(runs, out, against=against is not None)
    with console.results():
        for path in written:
            print(path)
