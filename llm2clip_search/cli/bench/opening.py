"""``llm2clip-search bench opening``: the memory that opening a model takes, against the model's size."""

import json
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console


def bench_opening(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As for query.", show_default=False)],
    tower: Annotated[Literal["vision", "text", "both"], typer.Option(help="Which to open.")] = "both",
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a tower.")] = False,
) -> None:
    """Peak memory of opening each tower on the CPU, in a process of its own, without what its libraries hold.

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
                f" in memory, peak {opening.peak / 1e6:10,.1f} MB, ratio {opening.ratio:.2f}"
                f" (libraries {opening.libraries / 1e6:,.0f} MB beside)"
            )
