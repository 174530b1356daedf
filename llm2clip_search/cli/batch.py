"""Files of captions: one per line, read as they are needed."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from llm2clip_search.errors import QueryError

STDIN = "-"


def read_captions(source: str) -> Iterator[tuple[int, str]]:
    """Captions of a file, or of stdin for ``-``, with their line numbers, from 1; blank lines are skipped.

    Raises:
        QueryError: a file that cannot be read or holds no caption, at once; a line that is not UTF-8, when it is read.
    """
    lines = _lines(source)
    first = next(lines, None)
    if first is None:
        raise QueryError(f"{_name(source)} holds no captions.", hint="Write one caption per line.")
    return chain([first], lines)


def count_captions(source: str) -> int:
    """Captions in a file; 0 for stdin and pipes, which can be read only once."""
    return sum(1 for _ in _lines(source)) if source != STDIN and Path(source).is_file() else 0


def _lines(source: str) -> Iterator[tuple[int, str]]:
    try:
        with nullcontext(sys.stdin.buffer) if source == STDIN else Path(source).open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:  # "utf-8-sig" drops the byte order mark that editors on Windows write
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise QueryError(
                        f"{_name(source)} is not UTF-8 in line {number:,}.", hint="Save the file as UTF-8."
                    ) from error
                if text:
                    yield number, text
    except OSError as error:
        raise QueryError(f"{_name(source)} cannot be read: {error.strerror}.") from error


def _name(source: str) -> str:
    return "stdin" if source == STDIN else source
