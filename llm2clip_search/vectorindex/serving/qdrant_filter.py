"""Conditions as filters of Qdrant, in JSON: the server's client and the core in this process build theirs from it.

What was tried with a collection in memory, with the core 0.9, and with payload indices and without:

- ``match`` tells 1, 1.0 and true apart, and takes whole numbers of 64 bits, but ``range`` compares as float64.
- ``except`` and ``range`` do not meet a missing key; ``is_empty`` meets it, and a list without items as well.
- NaN and infinities are text (`payload`), which ``range`` does not meet.
"""

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from llm2clip_search.vectorindex.conditions import (
    AllOf,
    AnyOf,
    Compared,
    Condition,
    Containing,
    Listing,
    Null,
    OneOf,
    UntranslatableError,
    Value,
)
from llm2clip_search.vectorindex.serving.payload import encoded, qdrant_key

Filter = dict[str, Any]
_EXACT = 2**53
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_ABOVE = ("-Infinity", "Infinity", "NaN")
"""Numbers that are text, as DuckDB orders them: any finite one lies between the first two."""


def qdrant_filter(condition: Condition, types: Mapping[str, pa.DataType]) -> Filter:
    """A filter that the rows of a condition meet.

    Args:
        types: of the columns.

    Raises:
        UntranslatableError: Qdrant lacks a part of it.
    """
    if isinstance(condition, AllOf):
        return {"must": [qdrant_filter(part, types) for part in condition.parts]}
    if isinstance(condition, AnyOf):
        if not condition.parts:  # an empty "should" is met by any row
            return {"must": [{"has_id": []}]}
        return {"should": [qdrant_filter(part, types) for part in condition.parts]}
    arrow, key = types[condition.column], qdrant_key(condition.column)
    if pa.types.is_uint64(arrow):
        raise UntranslatableError(f"{condition.column} holds unsigned whole numbers of 64 bits, which Qdrant lacks.")
    if isinstance(condition, Null):
        return _null(condition, arrow, key)
    if isinstance(condition, OneOf):
        return _one_of(condition, arrow, key)
    if isinstance(condition, Compared):
        return _compared(condition, arrow, key)
    if isinstance(condition, Listing):
        if condition.negated:
            raise UntranslatableError(_no_empty_list(condition.column))
        return _must(key, match={"value": condition.value})
    return _containing(condition, key)


def _must(key: str, **how: Any) -> Filter:
    return {"must": [{"key": key, **how}]}


def _no_empty_list(column: str) -> str:
    return f"Qdrant cannot tell an empty list from a missing one in {column}, so it only finds lists that have an item."


def _null(condition: Null, arrow: pa.DataType, key: str) -> Filter:
    if pa.types.is_list(arrow):
        raise UntranslatableError(_no_empty_list(condition.column))
    return {"must_not" if condition.negated else "must": [{"is_empty": {"key": key}}]}


def _containing(condition: Containing, key: str) -> Filter:
    if condition.at == "end":
        raise UntranslatableError(f"Qdrant cannot search for text at the end of {condition.column}.")
    found = {"key": key, "match": {"prefix" if condition.at == "start" else "substring": condition.text}}
    return {"must_not": [found, {"is_empty": {"key": key}}]} if condition.negated else {"must": [found]}


def _one_of(condition: OneOf, arrow: pa.DataType, key: str) -> Filter:
    if _is_matched(arrow):
        return _must(key, match={"except" if condition.negated else "any": list(condition.values)})
    how: Any = "!=" if condition.negated else "="
    parts = [
        _compared(Compared(column=condition.column, how=how, value=value), arrow, key) for value in condition.values
    ]
    return {"must" if condition.negated else "should": parts}


def _compared(condition: Compared, arrow: pa.DataType, key: str) -> Filter:
    how, value = condition.how, condition.value
    if isinstance(value, bool):
        if how not in ("=", "!="):
            raise UntranslatableError(f"Qdrant does not order truth values, such as {condition.column}.")
        return _must(key, match={"value": value == (how == "=")})
    if _is_matched(arrow) and how in ("=", "!="):
        return _must(key, match={"value": value} if how == "=" else {"except": [value]})
    if isinstance(value, str):
        raise UntranslatableError(f"Qdrant does not order text, such as {condition.column}.")
    if isinstance(value, int) and abs(value) >= _EXACT:
        raise UntranslatableError(f"Qdrant does not order whole numbers as large as {value} in {condition.column}.")
    if isinstance(value, float):
        return _of_floats(how, value, key)
    return _range(how, value, key)


def _is_matched(arrow: pa.DataType) -> bool:
    """Whether values are compared for equality by ``match``."""
    return bool(pa.types.is_string(arrow) or pa.types.is_large_string(arrow) or pa.types.is_integer(arrow))


def _range(how: str, value: Value, key: str) -> Filter:
    limit = encoded(value)
    if how == "=":
        return _must(key, range={"gte": limit, "lte": limit})
    if how == "!=":
        return {"should": [{"key": key, "range": {"lt": limit}}, {"key": key, "range": {"gt": limit}}]}
    return _must(key, range={_BOUNDS[how]: limit})


def _of_floats(how: str, value: float, key: str) -> Filter:
    """A comparison in a column that may hold text for NaN and infinities."""
    place = _ABOVE.index(str(encoded(value))) if not math.isfinite(value) else 0.5
    named = [name for number, name in enumerate(_ABOVE) if _holds(number, how, place)]
    finite: list[Filter] = []
    if math.isfinite(value):
        finite = [_range(how, value, key)]
    elif _holds(0.5, how, place):
        finite = [{"key": key, "range": {"gte": -_MOST}}]
    if named:
        finite.append({"key": key, "match": {"any": named}})
    return {"should": finite} if finite else {"must": [{"has_id": []}]}


_MOST = 1.7976931348623157e308


def _holds(number: float, how: str, other: float) -> bool:
    if how in ("=", "!="):
        return (number == other) == (how == "=")
    return (number < other if "<" in how else number > other) or ("=" in how and number == other)
