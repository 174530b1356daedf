"""Ctrl-C and SIGTERM while a command writes: what is done is committed first, and a second one ends the process."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from llm2clip_search.base.progress import Progress
from llm2clip_search.cli import console

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked the command to stop; as for Ctrl-C everywhere, nothing that handles errors of items catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        """As a shell reports a process that the signal ended."""


@contextmanager
def stopped_between_items(progress: Progress) -> Iterator[Progress]:
    """Let a signal end the work inside where it reports progress: a commit is not interrupted in its middle.

    Before the first report nothing is done yet, and the signal ends the work wherever it is.

    Args:
        progress: called as before.

    Yields:
        What the work has to report to.

    Raises:
        Stopped: from the report after the signal, or at the end of the work.
    """
    asked: list[int] = []
    has_begun = False

    def ask(number: int, _: FrameType | None) -> None:
        # A second signal has its usual effect, also in the middle of a library that returns late.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        asked.append(number)
        if not has_begun:
            raise Stopped(number)
        console.say("stopping, and committing what is embedded; a second signal ends at once")

    def report(task: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        nonlocal has_begun
        has_begun = True
        progress(task, done, total, figures)
        stop()

    def stop() -> None:
        if asked:
            raise Stopped(asked[0])

    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield progress
        return
    before = {each: signal.signal(each, ask) for each in SIGNALS}
    try:
        yield report
        stop()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
