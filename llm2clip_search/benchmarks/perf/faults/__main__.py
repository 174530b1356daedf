"""Command line of the fault harness."""

import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llm2clip_search.benchmarks.perf.faults.children import import_all
from llm2clip_search.benchmarks.perf.faults.corruption import Corrupted, Corruption
from llm2clip_search.benchmarks.perf.faults.cost import measure_checks
from llm2clip_search.benchmarks.perf.faults.trials import ERROR_KINDS, Interrupted, Tally
from llm2clip_search.benchmarks.perf.faults.workload import Scenario, answers, build_searched, described, scenarios


def main(
    kills: Annotated[int, typer.Option(help="Kills at random instants, over all scenarios.")] = 40,
    steps: Annotated[int, typer.Option(help="Kills at each named step of each scenario, at most.")] = 1,
    errors: Annotated[int, typer.Option(help="Operations on the disk that fail, over all scenarios.")] = 40,
    power_cuts: Annotated[int, typer.Option(help="Power cuts, over all scenarios.")] = 40,
    clock_jumps: Annotated[int, typer.Option(help="Runs in which the clock jumps, over all scenarios.")] = 20,
    damages: Annotated[int, typer.Option(help="Files that are damaged.")] = 40,
    rows: Annotated[int, typer.Option(help="Measure what checks cost, on an index of so many rows.")] = 0,
    repair_each: Annotated[int, typer.Option(help="Of so many damaged indices one is repaired.")] = 10,
    only: Annotated[list[str] | None, typer.Option(help="Scenarios by name; all by default.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to work; a file system in memory is faster.")] = None,
    seed: Annotated[int, typer.Option(help="Decides what happens, but for instants.")] = 0,
) -> None:
    """Interrupt and damage indices, and print as JSON lines what came of it. Exits with code 1 if anything was lost."""
    os.environ["OMP_NUM_THREADS"] = "1"  # FAISS is not loaded yet, and its threads would not survive a fork
    chosen = [each for each in scenarios() if not only or each.name in only]
    is_good = True
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if rows:
            _print(measure_checks(Path(scratch) / "cost", rows=rows).to_dict())
        is_interrupted = bool(kills or steps or errors or power_cuts or clock_jumps)
        if is_interrupted or damages:
            import_all(lambda: _everything(Path(scratch) / "imports", chosen))
        if is_interrupted:
            prepared = [Interrupted(each, Path(scratch)) for each in chosen]
            for name, run in _trials(
                prepared, kills, steps, errors, power_cuts, clock_jumps, random.Random(seed)
            ).items():
                tally = Tally()
                run(tally)
                is_good = is_good and tally.is_good
                _print({"faults of": name, **tally.to_dict()})
        if damages:
            corruption, chance, corrupted = Corruption(), random.Random(seed), Corrupted(Path(scratch))
            while corruption.trials < damages:
                corrupted.damage(corruption, chance, repair=corruption.trials % repair_each == 0)
            is_good = is_good and corruption.is_good
            _print({"faults of": "damaged files", **corruption.to_dict()})
    raise typer.Exit(0 if is_good else 1)


def _trials(
    prepared: list[Interrupted],
    kills: int,
    steps: int,
    errors: int,
    power_cuts: int,
    clock_jumps: int,
    chance: random.Random,
) -> dict[str, Callable[[Tally], None]]:
    """What to do, by name; scenarios take turns."""

    def in_turn(count: int, trial: Callable[[Interrupted, int], None]) -> None:
        for number in range(count):
            trial(prepared[number % len(prepared)], number)

    def kill_at_steps(tally: Tally) -> None:
        for each in prepared:
            for step, places in each.steps.items():
                for place in chance.sample(places, min(steps, len(places))):
                    each.kill_at_step(tally, place)
                    if step.startswith("write"):
                        each.kill_at_step(tally, place, torn=True)

    def fail(tally: Tally, each: Interrupted, number: int) -> None:
        kind = ERROR_KINDS[number // len(prepared) % len(ERROR_KINDS)]
        writes = [place for place, operation in enumerate(each.log) if operation.kind == "write"]
        places = writes if "write" in kind else range(len(each.log))
        if places:
            each.fail_at_step(tally, chance.choice(places), kind, lasting=chance.random() < 0.5)

    def lose_power(tally: Tally, each: Interrupted) -> None:
        each.lose_power(tally, chance.randint(1, len(each.log)), chance)

    return {
        "kills at random": lambda tally: in_turn(kills, lambda each, _: each.kill_at_random(tally, chance)),
        "kills at named steps": kill_at_steps,
        "errors of the disk": lambda tally: in_turn(errors, lambda each, number: fail(tally, each, number)),
        "power cuts": lambda tally: in_turn(power_cuts, lambda each, _: lose_power(tally, each)),
        "clock jumps": lambda tally: in_turn(clock_jumps, lambda each, _: each.jump_clock(tally, chance)),
    }


def _everything(scratch: Path, chosen: list[Scenario]) -> None:
    """All that trials do, once."""
    for number, each in enumerate(chosen):
        base = scratch / str(number)
        base.mkdir(parents=True)
        each.prepare(base)
        each.act(base)
        described(base)
    build_searched(scratch / "searched")
    answers(scratch / "searched" / ".llm2clip")


def _print(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value))


if __name__ == "__main__":
    typer.run(main)
