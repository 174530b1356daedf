"""A filter as a form: conditions that all have to hold, each of a column, an operation and a value; and their SQL.

`form_reader` is the way back.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from llm2clip_search.engine.columns import FIXED, Column, ColumnKind
from llm2clip_search.engine.database import quoted
from llm2clip_search.errors import QueryError

Operation = Literal[
    "=",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "in",
    "not_in",
    "between",
    "contains",
    "not_contains",
    "starts_with",
    "ends_with",
    "has",
    "under",
    "near",
    "within",
    "is_null",
    "is_not_null",
]
Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | Sequence[Scalar] | Mapping[str, Any] | None
PLACE = "place"
"""Stands for ``latitude`` and ``longitude`` together; older indices may have a column of that name beside them."""
NEAR = ("latitude", "longitude", "km")
WITHIN = ("south", "west", "north", "east")
_PLACED = {"near": NEAR, "within": WITHIN}
ESCAPE = "\\"
"""Character before a wildcard of LIKE that stands for itself."""

_COMPARED = ("=", "!=", "<", "<=", ">", ">=", "in", "not_in", "between")
_SEARCHED = ("contains", "not_contains", "starts_with", "ends_with")
_OPERATIONS: Mapping[ColumnKind, tuple[str, ...]] = {
    "text": (*_COMPARED, *_SEARCHED),
    "number": _COMPARED,
    "time": _COMPARED,
    "flag": ("=", "!="),
    "list": ("has",),
    "other": (),
}
_VALUES: Mapping[ColumnKind, str] = {
    "text": "text",
    "number": "a number",
    "time": "a date as text",
    "flag": "true or false",
}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One line of a form."""

    column: str
    """A column of the index, or `PLACE`."""
    op: Operation
    """``contains``, ``not_contains``, ``starts_with`` and ``ends_with`` ignore case; ``has`` looks for an item of a
    list; ``under`` is a folder or file with all that is below it."""
    value: Value = None
    """Text, a number, true or false; dates are text and may be periods, as in ``"2026-11"``. Several for ``in`` and
    ``not_in``, low and high for ``between``, none for ``is_null`` and ``is_not_null``, `NEAR` and `WITHIN` by name for
    the operations on places."""

    def __post_init__(self) -> None:
        if isinstance(self.value, Sequence) and not isinstance(self.value, str):
            object.__setattr__(self, "value", tuple(self.value))

    def to_dict(self) -> dict[str, Any]:
        """A JSON object, without a value where the operation has none."""
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return {"column": self.column, "op": self.op} | ({} if value is None else {"value": value})


def operations(column: Column) -> tuple[str, ...]:
    """What a form offers for a column."""
    own = ("under",) if column.name == "path" else ()
    return (*_OPERATIONS[column.kind], *own, "is_null", "is_not_null")


def sql_of(condition: Condition, columns: Mapping[str, Column]) -> str:
    """A condition as SQL, for which nothing in it is more than a value.

    Raises:
        QueryError: a column that does not exist, or an operation or value that does not fit it.
    """
    if condition.op not in get_args(Operation):
        raise QueryError(f"{condition.op!r} is not an operation; these are: {', '.join(get_args(Operation))}.")
    if condition.column == PLACE and (PLACE not in columns or condition.op in _PLACED):
        return _of_place(condition)
    if (column := columns.get(condition.column)) is None:
        raise QueryError(f"There is no column {condition.column!r}; the columns are {', '.join(columns)}.")
    if condition.op not in operations(column):
        raise QueryError(f"{column.name} is compared by {', '.join(operations(column))}, not by {condition.op}.")
    name = column.name if column.name in (*FIXED, "mtime") else quoted(column.name)
    return _WRITTEN[condition.op](name, condition.value, column)


def _of_place(condition: Condition) -> str:
    parts = _PLACED.get(condition.op)
    if parts is None:
        raise QueryError(f"A place is compared by near and within, not by {condition.op}.")
    value = condition.value
    if not isinstance(value, Mapping) or set(value) != set(parts):
        raise QueryError(f"The value of {condition.op} consists of {', '.join(parts)}.")
    numbers = {part: _number(value[part]) for part in parts}
    for part in parts:
        most = math.inf if part == "km" else 90 if part in ("latitude", "south", "north") else 180
        if not -most <= float(numbers[part]) <= most:
            raise QueryError(f"{part} is {numbers[part]}; it must be between {-most} and {most}.")
    if condition.op == "near":
        if float(numbers["km"]) <= 0:
            raise QueryError(f"km is {numbers['km']}; it must be above 0.")
        return f"km_between(latitude, longitude, {numbers['latitude']}, {numbers['longitude']}) <= {numbers['km']}"
    if float(numbers["south"]) > float(numbers["north"]):
        raise QueryError(f"south is {numbers['south']}, north of north, which is {numbers['north']}.")
    return f"is_within(latitude, longitude, {', '.join(numbers[part] for part in WITHIN)})"


def _compared(operator: str) -> Callable[[str, Value, Column], str]:
    return lambda name, value, column: f"{name} {operator} {_literal(value, column.kind)}"


def _searched(operator: str, before: str, after: str) -> Callable[[str, Value, Column], str]:
    """LIKE without regard to case, with the wildcards in the value as plain characters."""

    def written(name: str, value: Value, column: Column) -> str:
        if value == "":
            raise QueryError(f"The text to look for in {column.name} is empty.")
        plain = _literal(value, "text")
        for special in (ESCAPE, "%", "_"):
            plain = plain.replace(special, ESCAPE + special)
        escape = f" ESCAPE '{ESCAPE}'" if ESCAPE in plain else ""
        return f"{name} {operator} '{before}{plain[1:-1]}{after}'{escape}"

    return written


def _listed(operator: str) -> Callable[[str, Value, Column], str]:
    def written(name: str, value: Value, column: Column) -> str:
        if not isinstance(value, tuple) or not value:
            raise QueryError(f"The value for {column.name} is a list of at least one.")
        return f"{name} {operator} ({', '.join(_literal(each, column.kind) for each in value)})"

    return written


def _between(name: str, value: Value, column: Column) -> str:
    if not isinstance(value, tuple) or len(value) != 2:
        raise QueryError(f"The value for {column.name} is a list of two, the low and the high end.")
    low, high = (_literal(each, column.kind) for each in value)
    return f"{name} BETWEEN {low} AND {high}"


def _has(name: str, value: Value, column: Column) -> str:
    if column.items is None or column.items not in _VALUES:
        raise QueryError(f"The items of {column.name} cannot be compared.")
    return f"list_contains({name}, {_literal(value, column.items)})"


def _under(name: str, value: Value, column: Column) -> str:
    if value == "":
        raise QueryError("The folder is empty; a folder is an absolute path or a URI.")
    return f"is_under({name}, {_literal(value, 'text')})"


def _missing(operator: str) -> Callable[[str, Value, Column], str]:
    def written(name: str, value: Value, column: Column) -> str:
        if value is not None:
            raise QueryError(f"{column.name} {operator} takes no value.")
        return f"{name} {operator}"

    return written


_WRITTEN: Mapping[str, Callable[[str, Value, Column], str]] = {
    **{name: _compared(name) for name in ("=", "!=", "<", "<=", ">", ">=")},
    "in": _listed("IN"),
    "not_in": _listed("NOT IN"),
    "between": _between,
    "contains": _searched("ILIKE", "%", "%"),
    "not_contains": _searched("NOT ILIKE", "%", "%"),
    "starts_with": _searched("ILIKE", "", "%"),
    "ends_with": _searched("ILIKE", "%", ""),
    "has": _has,
    "under": _under,
    "is_null": _missing("IS NULL"),
    "is_not_null": _missing("IS NOT NULL"),
}


def _literal(value: Value, kind: ColumnKind) -> str:
    """A value as SQL writes it."""
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    if kind == "flag" and isinstance(value, bool):
        return str(value).lower()
    if kind in ("text", "time") and isinstance(value, str):
        if "\0" in value:
            raise QueryError("The value holds a null character.")
        return "'" + value.replace("'", "''") + "'"
    shown = repr(value)
    raise QueryError(f"The value is {_VALUES[kind]}, not {shown if len(shown) <= 60 else f'{shown[:57]}...'}.")


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise QueryError(f"{value!r} is not a finite number.")
    return repr(value)
