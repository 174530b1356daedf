"""Stdout and stderr with colours and tables. Importing rich takes longer than a query that prints paths searches."""

import os
import sys

from rich.console import Console


class _Output(Console):
    """Goes on silently when its reader closes the pipe; rich itself would exit with code 1."""

    def on_broken_pipe(self) -> None:
        drop_output()


def drop_output() -> None:
    """Discard what is still buffered: writing it would fail again when the interpreter closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# A pipe has no width: a table must not fold paths at 80 columns there.
out = _Output(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1000)
err = Console(stderr=True, highlight=False, soft_wrap=True)
