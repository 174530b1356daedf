"""Captions from files and from stdin: one per line, read as they are needed."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from llm2clip_search.cli import console
from llm2clip_search.errors import QueryError

STDIN = "-"
LONGEST_LINE = 1 << 20
"""Bytes of a line that are read before the file is taken for something else than captions: a model reads some hundred
words, but every one is counted, which takes 6 s for this many bytes."""
MOST_FUSED = 10_000
"""Captions of stdin that one query may have."""


def typed_captions(words: Sequence[str]) -> list[str]:
    """The captions of one query; the word ``-`` stands for the lines of stdin.

    Raises:
        QueryError: ``-`` is there twice, or as `read_captions`.
    """
    if STDIN not in words:
        return list(words)
    if words.count(STDIN) > 1:
        raise QueryError("Stdin can be read only once, but it is named twice.")
    lines = [caption for _, caption in islice(read_captions(STDIN), MOST_FUSED + 1)]
    if len(lines) > MOST_FUSED:
        raise QueryError(
            f"Stdin holds more than {MOST_FUSED:,} captions, too many for one query.",
            hint="Give --batch - to answer each line as a query of its own.",
        )
    place = words.index(STDIN)
    return [*words[:place], *lines, *words[place + 1 :]]


def read_captions(source: str) -> Iterator[tuple[int, str]]:
    """Captions of a file, or of stdin for ``-``, with their line numbers, from 1; blank lines are skipped.

    Raises:
        QueryError: a file that cannot be read or holds no caption, at once; a line that is no UTF-8 text or endless,
            when it is read.
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
    from llm2clip_search.engine.captions import clean_caption

    try:
        with nullcontext(_stdin()) if source == STDIN else Path(source).open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
                text = _text(line, _name(source), number)
                if clean_caption(text):
                    yield number, text
    except OSError as error:
        raise QueryError(f"{_name(source)} cannot be read: {error.strerror}.") from error


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise QueryError("There is no stdin to read captions from: it is closed.")
    if sys.stdin.isatty():
        end = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"
        console.say(f"Type captions, one per line, and {end} after the last one.")
    return sys.stdin.buffer


def _text(line: bytes, name: str, number: int) -> str:
    """A line without the space around it."""
    if len(line) > LONGEST_LINE:
        raise QueryError(f"Line {number:,} of {name} is longer than {LONGEST_LINE >> 20} MB, so it is no caption.")
    hint = "Save the file as UTF-8." if name != "stdin" else "Convert it to UTF-8, for instance with iconv."
    try:  # "utf-8-sig" drops the byte order mark that editors on Windows write
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise QueryError(f"{name} is not UTF-8 in line {number:,}.", hint=hint) from error
    if "\0" in text:  # UTF-16, or no text at all
        raise QueryError(f"{name} is not text in line {number:,}: it holds a zero byte.", hint=hint)
    return text


def _name(source: str) -> str:
    return "stdin" if source == STDIN else source
