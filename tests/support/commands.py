"""The command line as tests run it: in this process, or in one of its own where that is what is tested."""

import contextlib
import io
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from llm2clip_search.cli.app import main

RunCli = Callable[..., subprocess.CompletedProcess[str]]

COMMAND = [sys.executable, "-c", "from llm2clip_search.cli.app import main; main()"]
WIDTH = "200"


def run_in_process(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command without an interpreter's start: arguments, folder, both streams and exit code are its own."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    words = ["llm2clip-search", *map(str, arguments)]
    with _surroundings(words, cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return subprocess.CompletedProcess(words, code, stdout=texts[0], stderr=texts[1])


@contextlib.contextmanager
def _surroundings(words: list[str], cwd: Path) -> Iterator[None]:
    argv, columns = sys.argv, os.environ.get("COLUMNS")
    sys.argv, os.environ["COLUMNS"] = words, WIDTH
    try:
        # What is frozen is never freed, and this process goes on.
        with contextlib.chdir(cwd), mock.patch("gc.freeze"):
            yield
    finally:
        sys.argv = argv
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)


def run_in_subprocess(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter of its own: for imports, signals, pipes and what a process leaves behind."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "COLUMNS": WIDTH},
    )


def run_for_bytes(
    *arguments: str | bytes | Path, cwd: Path, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """As `run_in_subprocess`, with bytes in and out, and environment variables of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=300,
        check=False,
        env={**os.environ, "COLUMNS": WIDTH, **variables},
    )


def is_one_error(stderr: str) -> bool:
    """True for one ``error:`` line, followed by at most one ``hint:`` line."""
    lines = stderr.splitlines()
    return lines[0].startswith("error: ") and (len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")))
