"""Functions that do to their process what a hostile file does to a decoder; called in processes of `isolation`."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from llm2clip_search.corpora.decode import read_image
from llm2clip_search.encoders.decode_memory import MEMORY

DEADLY = b"this file makes a decoder crash"


def crash() -> None:
    os.abort()


def work_for_ever() -> None:
    while True:
        pass


def wait_for_ever() -> None:
    while True:
        time.sleep(60)


def allocate(count: int) -> int:
    """The length of so many bytes."""
    return len(bytearray(count))


def allocate_announced(count: int, max_pixels: int) -> int:
    with MEMORY.hold(count, max_pixels=max_pixels):
        return allocate(count)


def print_and_answer(answer: str) -> str:
    os.write(1, b"noise of a library")
    return answer


def raise_what_cannot_be_sent() -> None:
    class LocalError(Exception):
        pass

    raise LocalError("a reason that only this process knows")


def environment() -> tuple[int, str, list[str]]:
    import json

    return os.getpid(), str(Path(json.__file__ or "").parent), [each.name for each in Path().iterdir()]


def read_or_crash(data: bytes, *rest: Any) -> Any:
    """As `read_image`; a file that begins with `DEADLY` ends the process."""
    if data.startswith(DEADLY):
        crash()
    return read_image(data, *rest)


def interrupted(number: int) -> int:
    """Send a signal to this process, as a terminal or a service manager does to all processes of a command."""
    signal.raise_signal(signal.Signals(number))
    return number
