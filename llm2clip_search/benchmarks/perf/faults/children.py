"""Work in a child process that may die: forked, so that it starts within milliseconds with all modules imported."""

import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llm2clip_search.errors import Llm2ClipError

TIMEOUT_S = 120.0
"""A child that takes longer hangs."""

_STAY = ("__", "lance")
"""Beginnings of modules that children import themselves: LanceDB's threads do not survive a fork."""

Say = Callable[[Any], None]
"""Sends one value to the parent, at once; what was said before a death arrives."""


@dataclass(kw_only=True)
class Outcome:
    """How a child ended."""

    said: list[Any] = field(default_factory=list)
    result: Any = None
    error: str = ""
    """A sentence, if it ended with an error of ours; otherwise a traceback."""
    is_refusal: bool = False
    """The error is one of ours."""
    died: int = 0
    """The signal that ended it; 0 if none did."""
    seconds: float = 0.0
    """Between its start and its end."""

    @property
    def crashed(self) -> str:
        """What went wrong in a way that must not happen; empty if nothing did."""
        if self.died and self.died != signal.SIGKILL:
            return f"died of signal {self.died}"
        return "" if self.is_refusal else self.error


def run_child(work: Callable[[Say], Any], *, kill_after: float | None = None) -> Outcome:
    """Do some work in a forked child.

    Args:
        work: gives what JSON can hold.
        kill_after: seconds after its start at which the child is killed.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        _work(work, write)
    os.close(write)
    outcome, started, parts = Outcome(), time.monotonic(), [b""]
    deadline = started + (TIMEOUT_S if kill_after is None else kill_after)
    while True:
        ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            if kill_after is None:
                outcome.error = f"hangs: it was not done after {TIMEOUT_S:g} s"
            deadline = time.monotonic() + TIMEOUT_S
            continue
        if not (part := os.read(read, 1 << 16)):
            break
        parts.append(part)
    os.close(read)
    _, status = os.waitpid(child, 0)
    outcome.seconds = time.monotonic() - started
    outcome.died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    for line in b"".join(parts).split(b"\n"):
        with suppress(ValueError):  # the last one may be cut off
            kind, value = json.loads(line)
            if kind == "said":
                outcome.said.append(value)
            elif kind == "result":
                outcome.result = value
            else:
                outcome.error, outcome.is_refusal = value, kind == "refusal"
    return outcome


def _work(work: Callable[[Say], Any], pipe: int) -> None:
    def send(kind: str, value: Any) -> None:
        data = json.dumps([kind, value]).encode() + b"\n"
        while data:
            data = data[os.write(pipe, data) :]

    silent = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silent, descriptor)
    try:
        send("result", work(lambda value: send("said", value)))
    except Llm2ClipError as error:
        send("refusal", str(error))
    except BaseException:
        send("crash", traceback.format_exc())
    finally:
        os._exit(0)


def import_all(work: Callable[[], object]) -> None:
    """Import here whatever some work imports, which is done in a child: threads that it starts do not outlive that."""

    def modules(_: Say) -> list[str]:
        work()
        return sorted(sys.modules)

    for name in run_child(modules).result or ():
        if name not in sys.modules and not name.startswith(_STAY):
            with suppress(ImportError):
                importlib.import_module(name)
