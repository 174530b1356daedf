"""Conditions over the columns of an index, in a form that serving engines can be asked.

There is no NOT, because in SQL a comparison with null is neither true nor false, while engines know only the two: the
negation of a comparison is another comparison, and every comparison is false where its column is null.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Value = bool | int | float | str | datetime
"""What a column is compared with; a datetime has no time zone, as those of the index."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A column compared with a constant."""

    column: str
    how: Literal["=", "!=", "<", "<=", ">", ">="]
    value: Value


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """A column that has, or has not, one of some values."""

    column: str
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True, kw_only=True)
class Prefixed:
    """Text that begins, or does not begin, with a prefix; case counts."""

    column: str
    prefix: str
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


Condition = Compared | OneOf | Prefixed | Null | AllOf | AnyOf
