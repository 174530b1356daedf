"""Work on files of strangers in processes that can be killed.

A decoder is a large program in C that reads what anybody has written. What makes it crash, run for ever or take all
memory ends its process, and is an `ImageError` of the one file here. This protects a run, not a secret: the process has
the rights of its parent.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from threading import Lock
from typing import IO, Any, TypeVar

from llm2clip_search.encoders.decode_memory import MAX_PIXELS, MEMORY
from llm2clip_search.errors import ImageError, InputError

Result = TypeVar("Result")

FILES_PER_PROCESS = 4096
"""A process is replaced after this many, so that what a decoder leaks is bounded."""
_COMMAND = "from llm2clip_search.encoders.isolated import serve; serve()"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the work on one file may take."""

    seconds: float = 30.0
    """Processor time, so that a busy machine fails nothing."""
    wall_seconds: float = 900.0
    """Time on the clock, for what waits instead of working; longer in proportion where processor time is."""
    bytes_per_second: float = 50e6
    """Decoding has a further second for each of so many bytes that it announces to take (`decode_memory`)."""
    memory: int = 512 << 20
    """Bytes of address space in addition to four times the file, and to one and a half times what decoding has
    announced to take. Linux alone enforces it."""


def can_isolate() -> bool:
    """Whether this system can limit a process as is needed here: all but Windows."""
    return hasattr(signal, "setitimer")


class IsolatedProcesses:
    """Processes that each do one piece of work at a time; as many as there are threads that call `run` at once.

    They begin when they are needed and wait for more afterwards; each ends with this process, however that ends.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._idle: list[_Process] = []
        self._lock = Lock()

    def run(self, function: Callable[..., Result], *args: Any, max_pixels: int = MAX_PIXELS) -> Result:
        """Call a function of a module in another process.

        Args:
            function: what it is called with and returns is pickled.
            max_pixels: as for `reading`; bounds the memory that all threads and processes take together.

        Raises:
            ImageError: stage ``decode``; it crashed, took too long or too much memory. Or as of the function.
            InputError: processes cannot be limited or started on this system.
        """
        process = self._taken()
        try:
            result: Result = process.call(function, args, max_pixels)
        except _DiedError as error:
            raise ImageError(str(error), stage="decode") from None
        finally:
            self._give_back(process)
        return result

    def close(self) -> None:
        """End the processes that have nothing to do; they begin anew when they are needed."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def forget(self) -> None:
        """Leave the processes to the one that this process was forked from: both would read each other's answers."""
        self._idle, self._lock = [], Lock()

    def _taken(self) -> "_Process":
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Process(self._limits)

    def _give_back(self, process: "_Process") -> None:
        if process.is_sound and process.files < FILES_PER_PROCESS:
            with self._lock:
                self._idle.append(process)
        else:
            process.end()


PROCESSES = IsolatedProcesses()
"""Those that indexing and the server share."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=PROCESSES.forget)


def isolated(function: Callable[..., Result], *args: Any, max_pixels: int = MAX_PIXELS) -> Result:
    """`IsolatedProcesses.run` where the system can limit processes; elsewhere the function is called here."""
    return PROCESSES.run(function, *args, max_pixels=max_pixels) if can_isolate() else function(*args)


class _DiedError(Exception):
    """A process ended before its answer; the message is the reason, as of `ImageError`."""


class _Process:
    """The parent's side of one process."""

    def __init__(self, limits: Limits) -> None:
        if not can_isolate():
            raise InputError("Processes cannot be limited on this system.", hint="Leave --isolate out.")
        self.files = 0
        self.is_sound = True
        """False while it works, and after it has ended."""
        self._limits = limits
        # Codecs have threads, each of which would otherwise reserve address space for a heap of its own.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND],  # -P: modules of a stranger's folder, the current one, stay there
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries print what they think of a file
            env=environment,
        )
        assert self._popen.stdin is not None, "it is a pipe"
        assert self._popen.stdout is not None, "it is a pipe"
        self._requests: IO[bytes] = self._popen.stdin
        self._answers: IO[bytes] = self._popen.stdout
        try:
            self._send(limits)
            self._receive()
        except _DiedError as error:
            self.end()
            raise InputError(f"A process to decode in could not be started: {sys.executable} ended.") from error

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], max_pixels: int) -> Any:
        """The result of a function.

        Raises:
            _DiedError: the process ended.
            Exception: what the function raises.
        """
        self.files += 1
        self.is_sound = False
        with ExitStack() as all_held:
            held: dict[int, ExitStack] = {}
            self._send((function, args))
            while True:
                kind, value = self._receive()
                if kind == "hold":
                    # Its share of the memory that all may take together, which may have to be waited for.
                    number, needed = value
                    held[number] = all_held.enter_context(ExitStack())
                    try:
                        held[number].enter_context(MEMORY.hold(needed, max_pixels=max_pixels))
                    except ImageError as error:
                        self._send(error)
                    else:
                        self._send(None)
                elif kind == "release":
                    held.pop(value).close()
                else:
                    self.is_sound = True
                    if kind == "error":
                        raise value
                    return value

    def end(self) -> None:
        """End it, whatever it does."""
        self.is_sound = False
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):  # what was not sent yet cannot be
                pipe.close()

    def _send(self, value: Any) -> None:
        try:
            pickle.dump(value, self._requests, protocol=pickle.HIGHEST_PROTOCOL)
            self._requests.flush()
        except OSError as error:
            raise self._died() from error

    def _receive(self) -> Any:
        try:
            return pickle.load(self._answers)
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._died() from error

    def _died(self) -> _DiedError:
        self.is_sound = False
        code = self._popen.wait()
        if code == -signal.SIGPROF:
            return _DiedError("decoding it takes too much processor time")
        if code == -signal.SIGALRM:
            return _DiedError("decoding it does not end")
        if code == -signal.SIGKILL:
            return _DiedError("decoding it takes more memory than there is")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _DiedError(f"it makes its decoder crash ({name})")
