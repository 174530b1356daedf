"""How long work shows itself: a bar in a terminal, and for training a line every half minute in a log."""

import math
from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, Progress, Task, TextColumn

from llm2clip_search.cli import console

SILENCE_S = 30.0
"""Seconds between two lines where no terminal shows a bar."""
SPEED_OVER_S = 600.0
"""Seconds that the time left is estimated from: long enough to hold several training steps and an evaluation."""


class ProgressBar:
    """A `base.progress.Progress` on stderr; use it as a context.

    One bar at a time: a new task takes it over. A task that has not ended gets the bar back when it goes on, such as
    training after an evaluation, whose time then counts for the time left. Results of evaluations, and work whose total
    is 0, are lines that stay.
    """

    def __init__(self, *, log: bool = False) -> None:
        """With ``log``, stderr that is no terminal gets a line every `SILENCE_S` seconds; otherwise nothing."""
        self._log = log
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[shown]}", style="progress.data.speed"),
            console=console.err,
            transient=True,
            disable=not console.err.is_terminal,
            speed_estimate_period=SPEED_OVER_S,
        )
        self._said = -math.inf

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, task: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        if not total:
            if figures:
                console.say(f"{task}: {_figures(figures)}")
        elif task == "evaluated":
            from llm2clip_search.training.runtime.metrics_log import headlines

            console.say(f"{task} {done:,} of {total:,}: {_figures({n: figures[n] for n in headlines(figures)})}")
        else:
            self._advance(task, done, total, figures)

    def _advance(self, description: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        task = self._task(description, done, total)
        self._bar.update(task.id, completed=done)
        left = task.time_remaining
        rate = {} if "samples_per_second" in figures else _rate(task)
        shown = _figures({**figures, **rate}) + (f" · {duration(left)} left" if left else "")
        self._bar.update(task.id, shown=shown)
        now = self._bar.get_time()
        if self._log and self._bar.disable and (done == total or now - self._said >= SILENCE_S):
            console.say(f"{description} {done:,} of {total:,}" + (f": {shown}" if shown else ""))
            self._said = now

    def _task(self, description: str, done: int, total: int) -> Task:
        """The task of the bar, which is shown instead of any other; those that have ended are forgotten."""
        for other in list(self._bar.tasks):
            is_same = other.description == description
            if other.completed > done if is_same else other.finished:
                self._bar.remove_task(other.id)
            else:
                self._bar.update(other.id, visible=is_same)
        if not any(task.description == description for task in self._bar.tasks):
            self._bar.add_task(description, total=total, shown="")
            self._said = -math.inf
        return next(task for task in self._bar.tasks if task.description == description)


def _rate(task: Task) -> dict[str, float]:
    """Items per second over the whole task, once that is a steady number: images, for ``images for the statistics``."""
    elapsed, things = task.elapsed or 0.0, task.description.partition(" for ")[0]
    return {f"{things}_per_second": task.completed / elapsed} if elapsed > 0.5 and task.completed else {}


def _figures(figures: Mapping[str, float]) -> str:
    """``loss 2.31 · 97 samples/s``; an int is a count: ``149,000 captions``. The gradient's norm is left to the log."""
    parts = []
    for name, value in figures.items():
        if name.endswith("_per_second"):
            unit = name.removesuffix("_per_second")
            parts.append(f"{value:,.0f} {unit}/s" if value >= 10 else f"{value:.2g} {unit}/s")
        elif isinstance(value, int):
            parts.append(console.number_of(value, name))
        elif name != "gradient_norm":
            parts.append(f"{name} {value:.3f}" if abs(value) >= 0.1 else f"{name} {value:.3g}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """``12 days``, ``3 h 05 min``, ``12 min``, ``40 s``."""
    minutes = round(seconds / 60)
    if minutes >= 100 * 60:
        return f"{minutes / (24 * 60):,.0f} days"
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if seconds >= 90 else f"{math.ceil(seconds)} s"
