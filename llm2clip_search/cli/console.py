"""Output of the commands: results on stdout, everything else on stderr, errors as one sentence and a hint."""

import codecs
import errno
import io
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llm2clip_search.base.visible import visible, visible_json
from llm2clip_search.errors import Llm2ClipError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    out: Console
    err: Console

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Reasons why what is printed cannot be written."""
debug = False
"""Set by ``--debug``: errors show their traceback."""


def __getattr__(name: str) -> Any:
    """`out` and `err`, of which rich is imported when they are first used."""
    if name not in ("out", "err"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llm2clip_search.cli import terminal

    return getattr(terminal, name)


def load_tables() -> None:
    """Import what prints tables, for a caller that waits for another thread in any case."""
    import rich.markup
    import rich.table  # noqa: F401

    from llm2clip_search.cli import terminal  # noqa: F401


_SURROGATES = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes that are not UTF-8, in names and arguments."""


def tolerate_any_encoding() -> None:
    """Print ``?`` for characters that stdout's encoding lacks, instead of failing; stderr has escapes by default."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def print_bytes(data: bytes) -> None:
    """Write to stdout as it is, after what has been printed before; a reader gets it at once."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_json(value: Any) -> None:
    """Print a value as `json_line`."""
    print_bytes(json_line(value))


def json_line(value: Any) -> bytes:
    """A value as one line of JSON: in UTF-8, with escapes where stdout has another encoding.

    Bytes of names that are not UTF-8 become U+FFFD, and numbers that are not finite null: JSON cannot hold them. What
    could steer a terminal is escaped.
    """
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        written = json.dumps(_finite(value), ensure_ascii=False)
    text = visible_json(_SURROGATES.sub("\ufffd", written))
    if codecs.lookup(sys.stdout.encoding).name != "utf-8":
        text = re.sub(r"[^\x00-\x7f]+", lambda match: json.dumps(match[0])[1:-1], text)
    return f"{text}\n".encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def printable(text: str) -> str:
    """As `visible`; a path below the current folder is relative."""
    return visible(text.removeprefix(f"{Path.cwd().as_posix().rstrip('/')}/"))


def say(message: str) -> None:
    """One line of status on stderr."""
    _print("", message)


def warn(message: str) -> None:
    _print("[yellow]note:[/yellow] ", message)


def _print(mark: str, message: str) -> None:
    """Print a message on stderr, as one line whatever names are in it, after a mark in rich's markup."""
    from rich.markup import escape

    from llm2clip_search.cli.terminal import err

    err.print(f"{mark}{escape(visible(message))}")


def images(count: int) -> str:
    """``1 image``, ``1,234 images``."""
    return f"{count:,} image" + ("" if count == 1 else "s")


def counted(count: int, modalities: Collection[str]) -> str:
    """Rows of an index by what it holds: ``1 image``, ``8 texts``, ``68 images and texts``."""
    if len(modalities) > 1:
        return f"{count:,} images and texts"
    return f"{count:,} text{'' if count == 1 else 's'}" if "text" in modalities else images(count)


_PLURAL = re.compile(r"\b(image|caption|photograph|file|near-duplicate|step)s\b|\b(cop)ies\b")


def number_of(count: int, things: str) -> str:
    """``3 broken images``; of one, ``1 broken image``: the first noun and its verb are in the singular."""
    if count == 1:
        things = _PLURAL.sub(lambda found: found[1] or f"{found[2]}y", things, count=1)
        things = things.replace(" that are ", " that is ").replace(" which are ", " which is ")
    return f"{count:,} {things}"


def table(*columns: str, left: Collection[str] = (), title: str = "") -> "Table":
    """An empty table in the style of all commands: bold headers and no borders.

    Args:
        columns: headers, printed without interpreting markup. They are right-aligned and never wrap, as numbers should,
            unless they are in ``left``: those are folded where a terminal is too narrow, so that nothing is cut off.
        title: a line above the headers.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
    made.title = title or None
    for column in columns:
        is_left = column in left
        made.add_column(Text(column), justify="left" if is_left else "right", no_wrap=not is_left, overflow="fold")
    return made


def fail(error: Llm2ClipError) -> NoReturn:
    """Print an error as one sentence and its hint as another, and leave with exit code 1.

    With ``--debug`` the traceback is printed too.
    """
    if debug:
        traceback.print_exception(error)
    _print("[bold red]error:[/bold red] ", str(error))
    if error.hint:
        _print("[bold]hint:[/bold] ", error.hint)
    raise SystemExit(1)


class _Handler(logging.Handler):
    """Shows the library's log records as the commands' own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        (warn if record.levelno >= logging.WARNING else say)(record.getMessage())
        if record.exc_info and debug:
            traceback.print_exception(record.exc_info[1])


def show_log(*, debug: bool) -> None:
    """Send what the library logs to stderr: warnings and notices, with ``debug`` everything."""
    logger = logging.getLogger("llm2clip_search")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not any(isinstance(handler, _Handler) for handler in logger.handlers):
        logger.addHandler(_Handler())


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn errors that the package raises on purpose, and those of files, into one sentence and exit code 1."""
    try:
        yield
    except Llm2ClipError as error:
        fail(error)
    except OSError as error:
        if not (sentence := _of_files(error)):
            raise
        fail(Llm2ClipError(sentence))


def _of_files(error: OSError) -> str:
    """What an error of the system says of a file, or of a place that takes no more; empty if it says neither."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {reason}."
    if error.errno not in _FULL:
        return ""
    try:
        sys.stdout.flush()
    except OSError:
        from llm2clip_search.cli.terminal import drop_output

        drop_output()
    return f"Writing has failed: {reason}."


@contextmanager
def results() -> Iterator[None]:
    """Wrap what a command prints: a reader that closes the pipe early, like ``head``, is not an error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        from llm2clip_search.cli.terminal import drop_output

        drop_output()
