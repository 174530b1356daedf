"""How training shows itself: a bar in a terminal, a line every half minute in a log."""

import math
from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn

from llm2clip_search.cli import console
from llm2clip_search.training.runtime.metrics_log import headlines

SILENCE_S = 30.0
"""Seconds between two lines where no terminal shows a bar."""
SPEED_OVER_S = 600.0
"""Seconds that the time left is estimated from: long enough to hold several steps and an evaluation."""


class TrainingProgress:
    """A `loop.Report`; use it as a context.

    Work whose total is 0, such as what was read, and evaluations are a line each, in a terminal and in a log.
    """

    def __init__(self) -> None:
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

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if not total:
            console.say(f"{what}: {_shown(figures)}")
        elif what == "evaluated":
            console.say(f"{what} {done:,} of {total:,}: {_shown({n: figures[n] for n in headlines(figures)})}")
        else:
            self._advance(what, done, total, figures)

    def _advance(self, what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Move the one bar, which a new kind of work takes over."""
        if not any(task.description == what for task in self._bar.tasks):
            for task_id in self._bar.task_ids:
                self._bar.remove_task(task_id)
            self._bar.add_task(what, total=total, shown="")
            self._said = -math.inf
        [task] = self._bar.tasks
        self._bar.update(task.id, completed=done)
        left = task.time_remaining
        shown = _shown(figures) + (f" · {duration(left)} left" if left else "")
        self._bar.update(task.id, shown=shown)
        now = self._bar.get_time()
        if self._bar.disable and (done == total or now - self._said >= SILENCE_S):
            console.say(f"{what} {done:,} of {total:,}: {shown}")
            self._said = now


def _shown(figures: Mapping[str, float]) -> str:
    """``loss 2.31 · 97 samples/s``; whole numbers are counts: ``149,000 captions``. The norm is left to the log."""
    parts = []
    for name, value in figures.items():
        if name == "samples_per_second":
            parts.append(f"{value:,.0f} samples/s" if value >= 10 else f"{value:.2g} samples/s")
        elif isinstance(value, int):
            parts.append(f"{value:,} {name}")
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
