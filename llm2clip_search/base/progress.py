"""The progress protocol: how long work reports how far it is, without knowing who shows it."""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Receives the progress of long work: any function of four arguments.

    Work calls it with the same ``task`` until ``done`` equals ``total``; one task follows another.
    """

    def __call__(self, task: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        """Report progress.

        Args:
            task: what is counted, a plural noun such as ``images``.
            done: how many are done.
            total: how many there are; 0 if there is nothing to count and only ``figures`` are reported.
            figures: numbers to show beside it, by name; an ``int`` is a count, a ``float`` a measurement.
        """


def no_progress(task: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
    """Discard progress: the default of every function that takes a `Progress`."""
