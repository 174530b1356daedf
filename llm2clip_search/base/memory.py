"""How much memory this process uses and has used, and how much the machine has."""

import gc
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Event, Thread

COLLECTED_EVERY = 2_000
"""Objects that are made until Python looks for cycles among them; its default, which is 700 in older versions."""
MAPPED_BYTES = 1 << 20
"""Size from which servers have blocks of memory mapped by themselves; a query takes as long as without."""
_M_MMAP_THRESHOLD = -3


def peak_bytes() -> int:
    """The most memory that was ever resident in this process, bytes.

    On Linux this is ``VmHWM``: the maximum that ``getrusage`` reports is inherited from the parent process, so a
    small program started by a large one would report its parent's memory.
    """
    if (found := _proc_status("VmHWM")) is not None:
        return found
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, the BSDs KiB


def resident_bytes() -> int:
    """Memory that is resident in this process now, bytes; its peak where the system does not say."""
    found = _proc_status("VmRSS")
    return peak_bytes() if found is None else found


def private_bytes(process: int | None = None) -> int:
    """Memory of a process that is not the cache of a mapped file, bytes; this one by default.

    On systems other than Linux it is all memory of this process, and 0 for another.
    """
    found = _proc_status("RssAnon", "self" if process is None else str(process))
    if found is not None:
        return found
    return resident_bytes() if process is None else 0


class PrivatePeak:
    """The most private memory (`private_bytes`) since it was started, sampled; use it as a context."""

    def __init__(self, *, every_s: float = 0.2) -> None:
        self.bytes = private_bytes()
        self._every, self._done = every_s, Event()
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PrivatePeak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(self._every):
            self.bytes = max(self.bytes, private_bytes())


def return_freed_memory() -> None:
    """Give freed memory back to the system, which glibc does not do by itself if it lies between blocks in use.

    It takes milliseconds. Other C libraries are left alone.
    """
    if (trim := of_glibc("malloc_trim")) is not None:
        trim(0)


def keep_memory_low() -> None:
    """What a process does at its start that runs for weeks.

    Python looks for objects that refer to each other, and that nobody uses, as often as it does by itself. The command
    line makes that rare, because most commands end soon. A server would keep such objects of each state of its index,
    if only those that numpy makes when it reads the header of an array.

    glibc maps large blocks by themselves and gives them back when they are freed, but the first one that is freed
    raises the size that is large, to 32 MiB. Arrays then lie among small blocks, which keep their places.
    """
    gc.set_threshold(COLLECTED_EVERY, *gc.get_threshold()[1:])
    if (set_option := of_glibc("mallopt")) is not None:
        set_option(_M_MMAP_THRESHOLD, MAPPED_BYTES)


def physical_bytes() -> int:
    """Memory of the machine, bytes; 0 on a system that does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


@cache  # opening the C library makes classes, which refer to themselves
def of_glibc(name: str) -> Callable[..., int] | None:
    """A function that glibc alone has; None with other C libraries."""
    import ctypes

    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return found


def _proc_status(name: str, process: str = "self") -> int | None:
    """A field of Linux's ``/proc/PROCESS/status``, bytes; None on other systems."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) * 1024 if values else None
