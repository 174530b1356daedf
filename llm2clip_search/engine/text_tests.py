"""LIKE and functions that search in a column of text, as conditions that engines can be asked."""

import re
from collections.abc import Mapping
from typing import Any

from llm2clip_search.vectorindex.conditions import (
    NO_ROW,
    Compared,
    Condition,
    Containing,
    Null,
    UntranslatableError,
    all_of,
    any_of,
)

_AT: Mapping[str, Any] = {
    **dict.fromkeys(("starts_with", "prefix"), "start"),
    **dict.fromkeys(("ends_with", "suffix"), "end"),
    "contains": "anywhere",
}
TEXT_TESTS = frozenset({"~~", "!~~", "like_escape", "not_like_escape", "is_under", *_AT})
"""Functions as DuckDB calls them."""
_FILE = re.compile(r"[^/]\.\w{2,8}/*\Z", re.ASCII)
"""Folders that `own_functions` takes for a file with parts."""


def text_test(name: str, column: str, text: str, *escape: str, value: bool) -> Condition:
    """The rows in which a test is true, or those in which it is false; it is null only where the column is.

    Args:
        name: of `TEXT_TESTS`.
        text: that is searched, or the pattern.
        escape: of the pattern.

    Raises:
        UntranslatableError: a pattern with wildcards but ``%`` at its ends.
    """
    if name == "is_under":
        folder = text.rstrip("/")
        parts = [_equal(column, folder, value), _containing(column, f"{folder}/", "start", value)]
        if _FILE.search(text):
            parts.append(_containing(column, f"{folder}#", "start", value))
        return (any_of if value else all_of)(parts)
    if name in _AT:
        return _containing(column, text, _AT[name], value)
    return _like(column, text, *escape, value=value != name.startswith(("!", "not_")))


def _like(column: str, pattern: str, escape: str = "", *, value: bool) -> Condition:
    if len(escape) > 1 or (escape and pattern.replace(2 * escape, "").endswith(escape)):
        raise UntranslatableError(f"LIKE {pattern!r} ESCAPE {escape!r} cannot be evaluated.")
    characters: list[tuple[str, bool]] = []
    pending = iter(pattern)
    for character in pending:
        if escape and character == escape:
            characters.append((next(pending), False))
        else:
            characters.append((character, character in ("%", "_")))
    is_any = [each == ("%", True) for each in characters]
    start = is_any.index(False) if False in is_any else len(is_any)
    end = len(is_any) - is_any[start:][::-1].index(False) if False in is_any else start
    if any(is_wild for _, is_wild in characters[start:end]):
        raise UntranslatableError(f"LIKE {pattern!r} has no counterpart; engines know % only at the ends of a pattern.")
    text = "".join(character for character, _ in characters[start:end])
    if not any(is_any):
        return _equal(column, text, value)
    is_open = start > 0, end < len(characters)
    return _containing(column, text, "anywhere" if all(is_open) else "end" if is_open[0] else "start", value)


def _equal(column: str, text: str, value: bool) -> Condition:
    return Compared(column=column, how="=" if value else "!=", value=text)


def _containing(column: str, text: str, at: Any, value: bool) -> Condition:
    if not text:  # any text has it
        return Null(column=column, negated=True) if value else NO_ROW
    return Containing(column=column, text=text, at=at, negated=not value)
