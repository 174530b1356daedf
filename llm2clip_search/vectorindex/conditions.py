"""Conditions over the columns of an index, in a form that serving engines can be asked.

There is no NOT, because in SQL a comparison with null is neither true nor false, while engines know only the two: the
negation of a comparison is another comparison, and every comparison is false where its column is null.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from llm2clip_search.errors import QueryError

Value = bool | int | float | str | datetime
"""What a column is compared with, always a value that the column could have: a float32 for a column of these, a whole
second for one of seconds, and midnight for one of days. A datetime has no time zone; it is in UTC for a column that has
one."""
Comparison = Literal["=", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A column compared with a constant."""

    column: str
    how: Comparison
    value: Value


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """A column that has, or has not, one of some values."""

    column: str
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True, kw_only=True)
class Containing:
    """Text that has, or has not, another text that is not empty at its start, anywhere or at its end; case counts."""

    column: str
    text: str
    at: Literal["start", "anywhere", "end"]
    negated: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list that has, or has not, a value among its items."""

    column: str
    value: bool | int | str
    negated: bool = False


@dataclass(frozen=True, kw_only=True)
class Null:
    """A column that is, or is not, null."""

    column: str
    negated: bool = False


@dataclass(frozen=True)
class AllOf:
    """Every part is true; without parts, any row is."""

    parts: "tuple[Condition, ...]"


@dataclass(frozen=True)
class AnyOf:
    """At least one part is true; without parts, no row is."""

    parts: "tuple[Condition, ...]"


Condition = Compared | OneOf | Containing | Listing | Null | AllOf | AnyOf
EVERY_ROW, NO_ROW = AllOf(()), AnyOf(())
MAX_DEPTH = 20
"""AND and OR within each other that engines are sent; parsers of some give up at 50 parentheses."""


class UntranslatableError(QueryError):
    """A condition that an engine cannot be asked, although it is allowed; the message names the part and the reason."""


def all_of(parts: Iterable[Condition]) -> Condition:
    """Every part is true, in its plainest form."""
    kept = list(_flat(parts, AllOf))
    if NO_ROW in kept:
        return NO_ROW
    merged = _merged(kept, negated=True)
    return merged[0] if len(merged) == 1 else AllOf(tuple(merged))


def any_of(parts: Iterable[Condition]) -> Condition:
    """At least one part is true, in its plainest form."""
    kept = list(_flat(parts, AnyOf))
    if EVERY_ROW in kept:
        return EVERY_ROW
    merged = _merged(kept, negated=False)
    return merged[0] if len(merged) == 1 else AnyOf(tuple(merged))


def depth(condition: Condition) -> int:
    """How deep AND and OR lie within each other."""
    return 1 + max(map(depth, condition.parts), default=0) if isinstance(condition, AllOf | AnyOf) else 0


def _flat(parts: Iterable[Condition], kind: type[AllOf] | type[AnyOf]) -> Iterator[Condition]:
    for part in parts:
        if isinstance(part, kind):
            yield from part.parts
        else:
            yield part


def _merged(parts: list[Condition], *, negated: bool) -> list[Condition]:
    """Parts that compare one column with single values as one: ``a = 1 OR a = 2``, or ``a != 1 AND a != 2``."""
    values: dict[str, list[Value]] = {}
    others = list[Condition]()
    for part in parts:
        if isinstance(part, Compared) and part.how == ("!=" if negated else "="):
            values.setdefault(part.column, []).append(part.value)
        elif isinstance(part, OneOf) and part.negated == negated:
            values.setdefault(part.column, []).extend(part.values)
        else:
            others.append(part)
    singles: list[Condition] = [
        OneOf(column=column, values=tuple(found), negated=negated)
        if len(found) > 1
        else Compared(column=column, how="!=" if negated else "=", value=found[0])
        for column, found in values.items()
    ]
    return singles + others
