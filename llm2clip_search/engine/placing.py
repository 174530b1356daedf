"""Where a constant lies among the values that a column can have, as DuckDB compares the two.

DuckDB converts both sides to one type: whole numbers to DECIMAL for ``width > 1000.5``, and to DOUBLE for
``size > 1e9``, which beyond 2^53 makes one number of several. Each such conversion keeps the order, so that two values
of the column say where any constant lies: the least that is not less, and the least that is greater. Engines, which
have types and conversions of their own, are asked about values of the column only.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.vectorindex.conditions import (
    NO_ROW,
    Compared,
    Comparison,
    Condition,
    Null,
    Value,
    all_of,
    any_of,
)

_EPOCH, _MICRO = datetime(1970, 1, 1), timedelta(microseconds=1)
_DAY = 86_400_000_000
INFINITE = 2**64
"""Microseconds that stand for the end of all times."""
_UNITS: Mapping[str, int] = {"s": 1_000_000, "ms": 1000, "us": 1}
"""Microseconds."""
_WHOLE = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"})
_WHOLE |= {f"U{name}" for name in _WHOLE}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a constant lies among the values of a column."""

    first: Any
    """The least value that is not less; None if all are less."""
    after: Any
    """The least value that is greater; None if none is."""
    is_value: bool
    """The constant equals ``first`` and no other value."""
    write: Callable[[Any], Value]
    """Makes a value of a condition of ``first`` or ``after``."""
    ends: tuple[Any, Any] = (None, None)
    """The least and the greatest value of the column, if they are known."""

    def compared(self, column: str, how: Comparison) -> Condition:
        """The rows whose column compares so with the constant."""
        if self.is_value and self.first == self.ends[how in ("<=", ">")] and how not in ("=", "!="):
            return NO_ROW if how in ("<", ">") else Null(column=column, negated=True)
        if self.is_value:
            return Compared(column=column, how=how, value=self.write(self.first))
        if how in ("=", "!="):
            around: tuple[Comparison, Comparison] = (">=", "<=") if how == "=" else ("<", ">")
            if self.first == self.after:
                return NO_ROW if how == "=" else Null(column=column, negated=True)
            return (all_of if how == "=" else any_of)(self.compared(column, each) for each in around)
        bound = self.first if how in ("<", ">=") else self.after
        if bound is None or bound == self.ends[0]:  # all values are less, or none is
            is_any = (bound is None) == (how in ("<", "<="))
            return Null(column=column, negated=True) if is_any else NO_ROW
        return Compared(column=column, how="<" if how in ("<", "<=") else ">=", value=self.write(bound))


def place_of(arrow: pa.DataType, constant: Any, type_name: str, *, by_day: bool = False) -> Place | None:
    """Where a constant lies among the values of a column.

    Args:
        arrow: the column's type.
        constant: a number or text; microseconds since 1970 for a time or a day.
        type_name: DuckDB's type to which it converts the column and the constant.
        by_day: only the day of the column's times is compared.

    Returns:
        None if values of these types are not compared here.
    """
    if pa.types.is_integer(arrow) and (type_name in _WHOLE or type_name.startswith("DECIMAL")):
        return _among_integers(arrow, constant, lambda number: number)
    if pa.types.is_integer(arrow) and type_name in ("FLOAT", "DOUBLE"):
        kind = np.dtype(np.float32 if type_name == "FLOAT" else np.float64)
        stored = np.dtype(arrow.to_pandas_dtype())
        return _among_integers(arrow, constant, lambda number: float(np.array(number, stored).astype(kind)))
    if pa.types.is_float32(arrow) and type_name in ("FLOAT", "DOUBLE"):
        return _among_singles(constant)
    if (pa.types.is_float64(arrow) and type_name == "DOUBLE") or (is_text(arrow) and type_name == "VARCHAR"):
        return Place(first=constant, after=None, is_value=True, write=_as_it_is)
    if (unit := _unit(arrow)) is not None and (type_name == "DATE" or type_name in _MOMENTS):
        step = _DAY if by_day else unit
        first, after = -(-constant // step), constant // step + 1
        return _among_moments(first * step // unit, after * step // unit, unit)
    return None


_MOMENTS = ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE")


def is_moment(type_name: str) -> bool:
    """Whether constants of a type are times or days."""
    return type_name == "DATE" or type_name in _MOMENTS


def is_text(arrow: pa.DataType) -> bool:
    """Whether a column holds text."""
    return bool(pa.types.is_string(arrow) or pa.types.is_large_string(arrow))


def _as_it_is(value: Any) -> Any:
    return value


def _unit(arrow: pa.DataType) -> int | None:
    """Microseconds from one value to the next; None for what is finer, or not a time."""
    if pa.types.is_date(arrow):
        return _DAY
    return _UNITS.get(arrow.unit) if pa.types.is_timestamp(arrow) else None


def _among_moments(first: int, after: int, unit: int) -> Place:
    """Times are those that Python can hold, because rows are published through it."""
    low, high = (-(-_micros(datetime.min) // unit)), _micros(datetime.max) // unit
    places = [max(each, low) if each <= high else None for each in (first, after)]
    is_value = after == first + 1 and low <= first <= high
    return Place(
        first=places[0], after=places[1], is_value=is_value, write=lambda count: _EPOCH + _MICRO * count * unit
    )


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICRO


def _among_integers(arrow: pa.DataType, constant: Any, convert: Callable[[int], Any]) -> Place:
    signed = pa.types.is_signed_integer(arrow)
    low = -(2 ** (arrow.bit_width - 1)) if signed else 0
    high = low + 2**arrow.bit_width - 1
    # NaN is greater than any number in DuckDB, and neither of these is ever true in Python.
    first = _least(low, high, lambda number: convert(number) >= constant)
    after = _least(low, high, lambda number: convert(number) > constant)
    is_value = first is not None and after == (None if first == high else first + 1)
    return Place(first=first, after=after, is_value=is_value, write=int, ends=(low, high))


def _least(low: int, high: int, test: Callable[[int], bool]) -> int | None:
    """The least number that meets a test that all greater ones meet, too."""
    end = high + 1
    while low < end:
        middle = (low + end) // 2
        if test(middle):
            end = middle
        else:
            low = middle + 1
    return None if low > high else low


def _among_singles(constant: float) -> Place:
    with np.errstate(over="ignore"):
        nearest = np.float32(constant)
    is_value = math.isnan(constant) or float(nearest) == constant
    if not is_value and float(nearest) < constant:
        nearest = np.nextafter(nearest, np.float32(np.inf))
    return Place(first=float(nearest), after=float(nearest), is_value=is_value, write=float)
