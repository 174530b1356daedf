"""Conditions as filters of Qdrant, in JSON: the server's client and the core in this process build theirs from it.

What was tried with a collection in memory, with the core 0.9, and with payload indices and without:

- ``match`` tells 1, 1.0 and true apart, and takes whole numbers of 64 bits, but ``range`` compares as float64.
- ``except`` and ``range`` do not meet a missing key; ``is_empty`` meets it, and a list without items as well.
- NaN and infinities are text, and indices leave them out; `payload.MARKS` finds them.
"""

import math
import sys
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
from llm2clip_search.vectorindex.serving.payload import MARKS, encoded, mark, qdrant_key

Filter = dict[str, Any]
_EXACT = 2**53
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_ODD = (-math.inf, math.inf, math.nan)


def qdrant_filter(condition: Condition, types: Mapping[str, pa.DataType]) -> Filter:
    """A filter that the rows of a condition meet.

    Args:
        types: of the columns.

    Raises:
        UntranslatableError: Qdrant lacks a part of it.
    """
    if isinstance(condition, AllOf | AnyOf):
        parts = [qdrant_filter(part, types) for part in condition.parts]
        return {"must": parts} if isinstance(condition, AllOf) else _any_of(parts)
    arrow, key = types[condition.column], qdrant_key(condition.column)
    if pa.types.is_uint64(arrow):
        raise UntranslatableError(f"{condition.column} holds unsigned whole numbers of 64 bits, which Qdrant lacks.")
    missing = _null(condition.column, arrow, key)
    if isinstance(condition, Null):
        return {"must_not": [missing]} if condition.negated else missing
    if isinstance(condition, OneOf):
        return _one_of(condition, arrow, key)
    if isinstance(condition, Compared):
        return _compared(condition, arrow, key)
    found = {"key": key, "match": _match(condition)}
    return {"must_not": [found, missing]} if condition.negated else {"must": [found]}


def _any_of(parts: list[Filter]) -> Filter:
    return {"should": parts} if parts else {"must": [{"has_id": []}]}  # any row meets an empty "should"


def _must(key: str, **how: Any) -> Filter:
    return {"must": [{"key": key, **how}]}


def _null(column: str, arrow: pa.DataType, key: str) -> Filter:
    """Missing values; ``is_empty`` meets empty lists, too."""
    empty = [_marked(column, [])] if pa.types.is_list(arrow) else []
    return {"must": [{"is_empty": {"key": key}}], "must_not": empty}


def _marked(column: str, *values: float | list[Any]) -> Filter:
    return {"key": MARKS, "match": {"any": [mark(column, value) for value in values]}}


def _match(condition: Containing | Listing) -> Filter:
    if isinstance(condition, Listing):
        return {"value": condition.value}
    if condition.at == "end":
        raise UntranslatableError(f"Qdrant cannot search for text at the end of {condition.column}.")
    return {"prefix" if condition.at == "start" else "substring": condition.text}


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
        return _of_floats(condition, value, key)
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


def _of_floats(condition: Compared, value: float, key: str) -> Filter:
    """A comparison in a column that may have NaN and infinities, which ``range`` does not meet."""
    rank = _rank(value)
    named = [odd for odd in _ODD if _holds(_rank(odd), condition.how, rank)]
    parts: list[Filter] = [_marked(condition.column, *named)] if named else []
    if math.isfinite(value):
        parts.append(_range(condition.how, value, key))
    elif _holds(_rank(0.0), condition.how, rank):
        parts.append({"key": key, "range": {"gte": -sys.float_info.max}})
    return _any_of(parts)


def _rank(value: float) -> int:
    """Its place in DuckDB's order, in which all finite numbers are one."""
    return 3 if math.isnan(value) else 1 if math.isfinite(value) else 2 if value > 0 else 0


def _holds(rank: int, how: str, other: int) -> bool:
    if how in ("=", "!="):
        return (rank == other) == (how == "=")
    return (rank < other if "<" in how else rank > other) or ("=" in how and rank == other)
