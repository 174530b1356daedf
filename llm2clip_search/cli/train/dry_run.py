"""Prints the estimate of a dry run."""

from typing import TYPE_CHECKING

from llm2clip_search.cli import console
from llm2clip_search.cli.progress import duration
from llm2clip_search.cli.sizes import gigabytes

if TYPE_CHECKING:
    from llm2clip_search.training.dry_run import StageEstimate


def print_estimate(estimate: "StageEstimate") -> None:
    """Print parameters, memory and time of a stage as a table."""
    title = f"{estimate.recipe}, train {estimate.stage}"
    table = console.table("", "total", "trained", left=("",), title=title)
    for part in estimate.parts:
        table.add_row(part.name, f"{part.parameters:,}", f"{part.trained:,}")
    whole, trained = (sum(getattr(part, name) for part in estimate.parts) for name in ("parameters", "trained"))
    if len(estimate.parts) > 1:
        table.add_row("parameters", f"{whole:,}", f"{trained:,}", style="bold")
    for name, count in estimate.memory.items():
        table.add_row(name, gigabytes(count))
    table.add_row("memory", gigabytes(sum(estimate.memory.values())), style="bold")
    if estimate.disk:
        table.add_row("caption store on disk", gigabytes(estimate.disk))
    speed, step = estimate.speed, estimate.step_seconds
    table.add_row(f"{estimate.samples} per step", f"{estimate.samples_per_step:,}")
    table.add_row(f"{estimate.samples} per epoch", f"{estimate.samples_per_epoch:,}")
    table.add_row("operations per step", f"{estimate.step_flops / 1e12:,.3g} TFLOP")
    table.add_row(f"measured speed of {speed.device}", f"{speed.flops / 1e12:,.3g} TFLOP/s")
    table.add_row("time per step, at least", f"{step:.2f} s" if step < 10 else duration(step))
    table.add_row("steps", f"{estimate.steps:,}")
    if estimate.preparation_flops:
        table.add_row("views before the first step, at least", duration(estimate.preparation_seconds))
    table.add_row("epochs", f"{estimate.epochs:.1f}")
    table.add_row("total time, at least", duration(estimate.run_seconds), style="bold")
    console.out.print(table)
