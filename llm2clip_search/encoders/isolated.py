"""The other side of `isolation`: a process that works on one file after the other within limits."""

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from llm2clip_search.encoders.decode_memory import MEMORY
from llm2clip_search.encoders.isolation import Limits
from llm2clip_search.errors import ImageError, first_line


def serve() -> None:
    """Answer requests on stdin until it ends."""
    requests = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
        # The parent decides what a signal to all processes of a terminal or service ends; it kills when it wants to.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _be_the_first_to_go()
        process = _Served(requests, answers, pickle.load(requests))
        MEMORY.borrow(process.hold)
        process.send("ready", None)
        with suppress(EOFError, BrokenPipeError):  # the parent has ended
            while True:
                process.answer(pickle.load(requests))


class _Served:
    """Requests, answers, and the limits of what is worked on."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, limits: Limits) -> None:
        self._requests, self._answers, self._limits = requests, answers, limits
        self._size = 0
        """Bytes of the file."""
        self._held: dict[int, int] = {}
        """What decoding it has announced to take, in bytes."""
        self._holds = 0

    def answer(self, request: tuple[Any, tuple[Any, ...]]) -> None:
        """Do what is asked, and say what came of it."""
        function, args = request
        self._size = max((len(each) for each in args if isinstance(each, bytes)), default=0)
        try:
            self._limit()
            done: tuple[str, Any] = ("result", function(*args))
        except MemoryError:
            done = ("error", ImageError("decoding it takes more memory than it may", stage="decode"))
        except Exception as error:  # the parent judges it
            done = ("error", error)
        self._pause()
        _limit_memory(None)
        self._send_any(*done)

    @contextmanager
    def hold(self, needed: int, max_pixels: int) -> Iterator[None]:
        """Share the memory of the parent, and get time and memory for what is announced."""
        self._pause()  # waiting for others is not work
        self._holds += 1
        number = self._holds
        self.send("hold", (number, needed))
        if (refused := pickle.load(self._requests)) is not None:
            raise refused
        self._held[number] = needed
        self._limit()
        try:
            yield
        finally:
            del self._held[number]
            self.send("release", number)
            self._limit()

    def send(self, kind: str, value: Any) -> None:
        """Send one answer."""
        self._answers.write(pickle.dumps((kind, value), protocol=pickle.HIGHEST_PROTOCOL))
        self._answers.flush()

    def _send_any(self, kind: str, value: Any) -> None:
        """Send an answer that may be an exception of another library, which pickle may not be able to."""
        try:
            if kind == "error":
                pickle.loads(pickle.dumps(value))
            self.send(kind, value)
        except (BrokenPipeError, MemoryError):
            raise
        except Exception:
            self.send("error", ImageError(f"it cannot be decoded: {first_line(value)}", stage="decode"))

    def _limit(self) -> None:
        """Begin to count time, and allow the memory for a file and for what decoding it has announced to take."""
        limits, needed = self._limits, sum(self._held.values())
        seconds = limits.seconds + needed / limits.bytes_per_second
        _limit_memory(limits.memory + 4 * self._size + needed * 3 // 2)
        # Their signals end the process wherever it is, because Python handles neither of them.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds / limits.seconds * limits.wall_seconds)

    def _pause(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory(more: int | None) -> None:
    """Bound the address space to what is in use now, and some bytes more; None lifts the bound."""
    import resource  # absent on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = hard
    if more is not None:
        if (used := _address_space()) is None:
            return
        soft = used + more if hard == resource.RLIM_INFINITY else min(used + more, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int | None:
    """Bytes; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _be_the_first_to_go() -> None:
    """Where memory runs out, Linux shall kill this process and not its parent."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
