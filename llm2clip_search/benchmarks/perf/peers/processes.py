"""Time and memory of a command in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm2clip_search.errors import Llm2ClipError

_LAUNCHER = """
import json, resource, subprocess, sys, time
report, *command = sys.argv[1:]
started = time.perf_counter()
code = subprocess.call(command)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
with open(report, "w") as out:
    json.dump({"seconds": seconds, "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024)}, out)
sys.exit(code)
"""
"""Starts the command and waits for it. A process inherits the peak of the one that starts it, so this one is small."""

_NOT_INHERITED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
"""Installed programs have bytecode; one in a repository would be compiled at each start if it could write none."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is run."""

    words: tuple[str, ...]
    folder: Path | None = None
    """Working directory; this process's by default."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables in addition to those of this process, of which `_NOT_INHERITED` are left out."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that ended with code 0."""

    seconds: float
    """From its start to its end."""
    peak_bytes: int
    """Most memory that was resident at any moment in one of its processes."""
    output: str
    """What it wrote to stdout."""


def run_measured(command: Command) -> Ran:
    """Run a command to its end.

    Raises:
        Llm2ClipError: it cannot be started, or ends with another code than 0; the last line of its stderr is quoted.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    with tempfile.TemporaryDirectory(prefix="llm2clip-peers-") as scratch:
        report = Path(scratch) / "report.json"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(report), *command.words],
            cwd=command.folder,
            env={**inherited, **command.variables},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it printed no error"])[-1]
            raise Llm2ClipError(f"{' '.join(command.words)} ended with exit code {done.returncode}: {last}")
        return Ran(**json.loads(report.read_text()), output=done.stdout)
