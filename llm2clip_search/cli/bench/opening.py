"""``llm2clip-search bench opening``: memory needed to open a model, compared with the size of the model."""

import json
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console


def bench_opening(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model to open, as for query.", show_default=False)],
    tower: Annotated[Literal["vision", "text", "both"], typer.Option(help="Tower to open.")] = "both",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per tower.")] = False,
) -> None:
    """Measure the peak memory of opening each tower on the CPU in its own process, without that of the libraries.

    [dim]llm2clip-search bench opening dir:./eva02 --tower vision[/dim]
    """
    from llm2clip_search.benchmarks.perf.opening import TOWERS, measure_opening

    found = measure_opening(model, TOWERS if tower == "both" else (tower,))
    with console.results():
        for opening in found:
            if json_output:
                print(json.dumps(opening.to_dict()))
                continue
            console.out.print(
                f"{opening.tower:6}  {opening.stored / 1e6:10,.1f} MB on disk, {opening.size / 1e6:10,.1f} MB"
                f" in memory, peak {opening.peak / 1e6:10,.1f} MB, peak / size {opening.ratio:.2f}"
                f" (plus {opening.libraries / 1e6:,.0f} MB for libraries)"
            )
