"""How the commands talk: results on stdout, everything else on stderr, errors as one sentence."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from llm2clip_search.errors import Llm2ClipError


class _Output(Console):
    """Goes on in silence when its reader leaves; rich itself would end the command with exit code 1."""

    def on_broken_pipe(self) -> None:
        _drop_output()


def _drop_output() -> None:
    """Send what is still buffered nowhere: it would fail again when the interpreter closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# A pipe has no width: a table must not fold paths at 80 columns there.
out = _Output(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1000)
err = Console(stderr=True, highlight=False, soft_wrap=True)

debug = False
"""Set by ``--debug``: errors show their traceback."""


class _Rate(ProgressColumn):
    """Items a second over the whole of a task."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        rate = f"{task.completed / elapsed:,.0f} {task.fields['unit']}/s"
        return Text(rate if elapsed > 0.5 and task.completed else "")


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, absent when stderr is no terminal; call it with images done and total."""
    with _bars() as bar:
        task = bar.add_task(label, total=None, unit="images")
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for one kind of work after another; call it with what is done, how much of it, and how much there is."""
    with _bars() as bar:

        def report(what: str, done: int, total: int) -> None:
            running = [task.id for task in bar.tasks if task.description == what and not task.finished]
            if not running:
                for task_id in bar.task_ids:
                    bar.remove_task(task_id)
                running = [bar.add_task(what, total=total, unit=what)]
            bar.update(running[0], completed=done, total=total)

        yield report


def _bars() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=err, disable=not err.is_terminal, transient=True)


def say(message: str) -> None:
    """One line of status on stderr."""
    err.print(escape(message))


def warn(message: str) -> None:
    err.print(f"[yellow]note:[/yellow] {escape(message)}")


def fail(error: BaseException) -> NoReturn:
    """Print an error as one sentence and leave with exit code 1; with ``--debug`` its traceback too."""
    if debug:
        traceback.print_exception(error)
    err.print(f"[bold red]error:[/bold red] {escape(str(error))}")
    raise SystemExit(1)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn errors that the package raises on purpose into a sentence and exit code 1."""
    try:
        yield
    except Llm2ClipError as error:
        fail(error)


@contextmanager
def results() -> Iterator[None]:
    """Around what a command prints: a reader that leaves, as ``head`` does, ends the command without error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
