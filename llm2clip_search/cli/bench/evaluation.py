"""``llm2clip-search bench evaluation``: time and memory of an evaluation."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console

if TYPE_CHECKING:
    from llm2clip_search.benchmarks.perf.evaluation import EvaluationSpeed


def bench_evaluation(
    images: Annotated[int, typer.Option(min=1, help="Number of random image vectors.")] = 5000,
    captions: Annotated[
        int, typer.Option(min=1, help="Number of random caption vectors, assigned to the images in turn.")
    ] = 25010,
    dim: Annotated[int, typer.Option(min=1, help="Dimensions of the vectors.")] = 1280,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random vectors.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object with all results.")] = False,
) -> None:
    """Measure time and memory to evaluate random vectors of COCO 5K's shape: recalls, measures and intervals.

    Random vectors find their counterpart only by chance; the exit code is 1 if the recalls differ from chance.

    [dim]llm2clip-search bench evaluation[/dim]
    """
    from llm2clip_search.benchmarks.perf.evaluation import evaluate_random

    done = evaluate_random(images=images, captions=captions, dim=dim, seed=seed)
    with console.results():
        if json_output:
            print(json.dumps(done.to_dict()))
        else:
            _print(done)
    if not done.at_chance:
        console.warn(
            "the recalls of random vectors differ from chance: evaluation gives wrong results on this machine."
        )
        raise typer.Exit(1)


def _print(done: "EvaluationSpeed") -> None:
    console.out.print(
        f"{done.captions:,} captions x {done.images:,} images of {done.dim:,} dimensions: {done.seconds:.1f} s "
        f"(recalls {done.ranks_seconds:.1f}, measures {done.measures_seconds:.1f}, intervals "
        f"{done.intervals_seconds:.1f}), peak memory {done.peak_gb:.2f} GB"
    )
    table = console.table("measure", "value", "95 % interval", "chance", left=("measure",))
    for key, value in done.metrics.items():
        low, high = done.intervals[key]
        table.add_row(
            key, f"{100 * value:.3f} %", f"{100 * low:.3f} - {100 * high:.3f} %", f"{100 * done.chance[key]:.3f} %"
        )
    for key, value in done.measures.items():
        table.add_row(key, f"{value:,.5g}", "", "")
    console.out.print(table)
