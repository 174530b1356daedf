"""Numbers as callers pass them: Python's and numpy's, but not what merely converts to one."""

import operator

import numpy as np

from llm2clip_search.errors import QueryError


def whole_number(value: object, name: str, *, least: int) -> int:
    """A count as Python's integer; numpy's integers are accepted, fractions, text and booleans are not.

    Raises:
        QueryError: it is no whole number, or too small.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        whole = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise QueryError(f"{name} is {value!r}; it must be a whole number.") from None
    if whole < least:
        raise QueryError(f"{name} is {whole}; it must be at least {least}.")
    return whole


def is_number(value: object) -> bool:
    """True for integers and floats; booleans and text are not numbers."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
