"""Conditions as SQL of LanceDB, which is that of DataFusion over Arrow's own types.

What was tried, with scalar indices and without: comparisons of floats order NaN above infinity, as DuckDB does, and
-0.0 equals 0.0; text is compared by its bytes; null meets neither a comparison nor its negation. A constant that its
column could not have, such as 1000 for int8, is refused or rounded, so that conditions have none.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

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
from llm2clip_search.vectorindex.serving.payload import stored_name

_SEARCHES = {"start": "starts_with", "anywhere": "contains", "end": "ends_with"}

GROUP = 16
"""Parts that are joined without further parentheses."""
MAX_LEVELS = 20
"""The parser gives up at 50 calls of itself, and takes two for each pair of parentheses."""


def lance_filter(condition: Condition, types: Mapping[str, pa.DataType]) -> str:
    """A condition in LanceDB's SQL.

    Args:
        types: of the columns.

    Raises:
        UntranslatableError: it is nested too deeply.
    """
    if _levels(condition) > MAX_LEVELS:
        raise UntranslatableError(f"LanceDB takes conditions of at most {MAX_LEVELS} levels of parentheses.")
    return _written(condition, types)


def _levels(condition: Condition) -> int:
    """Parentheses within each other."""
    if not isinstance(condition, AllOf | AnyOf):
        return 0
    groups, levels = len(condition.parts), 1
    while groups > GROUP:
        groups, levels = -(-groups // GROUP), levels + 1
    return levels + max(map(_levels, condition.parts), default=0)


def _written(condition: Condition, types: Mapping[str, pa.DataType]) -> str:
    if isinstance(condition, AllOf | AnyOf):
        parts = [_written(part, types) for part in condition.parts]
        return _joined(parts, " AND " if isinstance(condition, AllOf) else " OR ")
    name, arrow = f"`{stored_name(condition.column)}`", types[condition.column]
    if isinstance(condition, Null):
        return f"{name} IS {'NOT ' * condition.negated}NULL"
    negated = "NOT " * (not isinstance(condition, Compared) and condition.negated)
    if isinstance(condition, Listing):
        return f"{negated}array_has({name}, {_literal(condition.value, arrow.value_type)})"
    if isinstance(condition, Containing):
        return f"{negated}{_SEARCHES[condition.at]}({name}, {_text(condition.text)})"
    if isinstance(condition, OneOf):
        return f"{name} {negated}IN ({', '.join(_literal(value, arrow) for value in condition.values)})"
    return f"{name} {condition.how} {_literal(condition.value, arrow)}"


def _joined(parts: Sequence[str], word: str) -> str:
    """Parts in parentheses, in groups, because DataFusion's stack would not hold a long row of them."""
    if len(parts) <= 1:
        return parts[0] if parts else "true" if word == " AND " else "false"
    if len(parts) > GROUP:
        size = GROUP
        while size * GROUP < len(parts):
            size *= GROUP
        parts = [_joined(parts[start : start + size], word) for start in range(0, len(parts), size)]
    return f"({word.join(parts)})"


def _literal(value: Value, arrow: pa.DataType) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, datetime):
        return _moment(value, arrow)
    if isinstance(value, int) and value > -(2**63):
        return str(value)
    name = "FLOAT" if pa.types.is_float32(arrow) else "DOUBLE" if isinstance(value, float) else "BIGINT"
    return repr(value) if math.isfinite(value) and name != "BIGINT" else f"CAST('{value}' AS {name})"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _moment(value: datetime, arrow: pa.DataType) -> str:
    if pa.types.is_date(arrow):
        return f"date '{value.date()}'"
    if arrow.tz is None:
        return f"timestamp '{value.isoformat(sep=' ')}'"
    count = pa.scalar(value.replace(tzinfo=UTC), pa.timestamp(arrow.unit, "UTC")).value
    unit = {"s": "Second", "ms": "Millisecond", "us": "Microsecond"}[arrow.unit]
    return f"arrow_cast({count}, 'Timestamp({unit}, Some(\"UTC\"))')"
