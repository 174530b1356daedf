"""Columns that sources bring along: one type each for the whole index, whatever single values look like."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.corpora.columns import WELCOME
from llm2clip_search.store import METADATA_SCHEMA
from llm2clip_search.store.manifest import ColumnEntry
from llm2clip_search.store.schema import column_field

DESCRIPTIVE = (*WELCOME, "format")
"""Columns of the index that an item may fill instead of the file itself."""


class ColumnTypes:
    """Types of the further columns: those that the index has, those that the corpus says, and those of first values.

    As in SQL, case does not matter: a column is spelt as it was first, and values of other spellings are in it. NaN is
    a missing value: DuckDB has it above all numbers and not as null, and JSON cannot hold it.
    """

    def __init__(self, known: Sequence[ColumnEntry]) -> None:
        self._types = {column.name: column_field(column).type for column in known}
        self._spelling = {name.casefold(): name for name in self._types}
        self.refused: Counter[str] = Counter()
        """Values that were left out because they do not have the type of their column, by column."""

    def learn(self, schema: pa.Schema | None) -> None:
        """Take the types that a corpus says, for columns that have none yet."""
        for field in schema or ():
            self._types.setdefault(self._spelt(field.name), field.type)

    def descriptive(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those values that take the place of what the file says, as the index stores them."""
        named = {name: values[name] for name in DESCRIPTIVE if values.get(name) is not None}
        typed = {name: self._value(name, value, METADATA_SCHEMA.field(name).type) for name, value in named.items()}
        return {name: value for name, value in typed.items() if value is not None}

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table | None:
        """The further columns of some rows; None if they have none. Columns without any value are left out."""
        spellings: dict[str, list[str]] = {}
        for name in dict.fromkeys(name for row in rows for name in row if name not in METADATA_SCHEMA.names):
            spellings.setdefault(self._spelt(name), []).append(name)
        columns = {name: self._column(name, _values(rows, spelt)) for name, spelt in spellings.items()}
        given = {name: column for name, column in columns.items() if column.null_count < len(column)}
        return pa.table(given) if given else None

    def _spelt(self, name: str) -> str:
        return self._spelling.setdefault(name.casefold(), name)

    def _column(self, name: str, values: list[Any]) -> pa.Array:
        values = [None if _is_nan(value) else value for value in values]
        if name not in self._types:
            inferred = _type_of([value for value in values if value is not None])
            if inferred is None:
                return pa.nulls(len(values))
            self._types[name] = inferred
        type_ = self._types[name]
        try:
            return pa.array(values, type_)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return pa.array([self._value(name, value, type_) for value in values], type_)

    def _value(self, name: str, value: Any, type_: pa.DataType) -> Any:
        """A value as its column has it: as it is, as text or number, or None, which is counted."""
        if value is None or _is_nan(value):
            return None
        if pa.types.is_string(type_) and not isinstance(value, str):
            return json.dumps(value, ensure_ascii=False, default=str)
        try:
            return pa.scalar(value, type_).as_py()
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            pass
        try:
            read = pa.scalar(str(value)).cast(type_).as_py()
        except (pa.ArrowException, TypeError, ValueError):
            self.refused[name] += 1
            return None
        return None if _is_nan(read) else read


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and isnan(value)


def _values(rows: Sequence[Mapping[str, Any]], spellings: Sequence[str]) -> list[Any]:
    """A column's value in each row: the first that is there under one of some names."""
    if len(spellings) == 1:
        return [row.get(spellings[0]) for row in rows]
    return [next((row[name] for name in spellings if row.get(name) is not None), None) for row in rows]


def _type_of(values: list[Any]) -> pa.DataType | None:
    """The Arrow type of some values; text if they have none in common, None if there is no value."""
    if not values:
        return None
    try:
        return pa.array(values).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return pa.float64() if numbers else pa.string()
