"""What a process holds open, as Linux reports it: a long run must not need more and more of it."""

from pathlib import Path


def descriptor_count(process: int | None = None) -> int:
    """Open file descriptors of a process, this one by default; 0 on a system that does not report them."""
    return _entries("fd", process)


def thread_count(process: int | None = None) -> int:
    """Threads of a process, those of libraries included, and of this one by default; 0 where they are not reported."""
    return _entries("task", process)


def _entries(name: str, process: int | None) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{'self' if process is None else process}/{name}").iterdir())
    except OSError:
        return 0
