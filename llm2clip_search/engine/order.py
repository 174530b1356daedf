"""The rows of some indices in the order of a column, kept so that every page of them costs the same."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from llm2clip_search.base.lazy import Lazy
from llm2clip_search.engine.candidates import Part
from llm2clip_search.engine.columns import Column
from llm2clip_search.engine.database import Session, quoted
from llm2clip_search.engine.ranking import keys_of, parts_and_ids
from llm2clip_search.errors import QueryError, first_line

KEPT = 4
"""Orders that are kept, 8 bytes for each row."""
NEWEST = "-id"


@dataclass(frozen=True, kw_only=True)
class Order:
    """All live rows by the value of a column, ascending, equal values by index and id; last those without one."""

    keys: np.ndarray
    """int64 ``[n]``, see `ranking.keys_of`."""
    known: int
    """Rows that have a value, which come first."""

    def page(
        self, matches: Sequence[np.ndarray | None], *, descending: bool, offset: int, k: int
    ) -> tuple[list[int], int]:
        """The keys of a page, and the number of rows that are in any page.

        Args:
            matches: rows of each index that count, int64 ids ascending; None are all of it.
            descending: the values in the opposite order; rows without one stay last.
        """
        if all(each is None for each in matches):
            known, total = self.known, len(self.keys)
            places = np.arange(offset, min(offset + k, total))
            places = np.where(places < known, known - 1 - places, places) if descending else places
        else:
            is_there = self._among(matches)
            first, last = np.flatnonzero(is_there[: self.known]), np.flatnonzero(is_there[self.known :]) + self.known
            total = len(first) + len(last)
            places = np.concatenate([first[::-1] if descending else first, last])[offset : offset + k]
        return self.keys[places].tolist(), total

    def _among(self, matches: Sequence[np.ndarray | None]) -> np.ndarray:
        numbers, ids = parts_and_ids(self.keys)
        found = np.ones(len(ids), dtype=bool)
        for number, wanted in enumerate(matches):
            if wanted is not None:
                of_it = slice(None) if len(matches) == 1 else numbers == number
                found[of_it] = np.isin(ids[of_it], wanted, assume_unique=True)
        return found


class Orders:
    """The orders that were asked for last; any number of threads may use it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Lazy[Order]] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy starts empty."""
        return Orders, ()

    def of(self, parts: Sequence[Part], column: Column, *, seconds: float) -> Order:
        """The rows of some indices in the order of a column.

        Args:
            seconds: how long reading and sorting may take.

        Raises:
            QueryError: a column without an order, or that takes longer.
            DamagedError: as `Filter.ids`.
        """
        if column.kind in ("list", "other"):
            raise QueryError(f"Rows cannot be ordered by {column.name!r}: its values have no order.")
        with self._lock:
            if (order := self._kept.get(column.name)) is None:
                # The same order is not made twice, and nobody waits for another one.
                order = Lazy(lambda: _by_id(parts) if column.name == "id" else _by_column(parts, column, seconds))
                self._kept[column.name] = order
            self._kept.move_to_end(column.name)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return order()


def _by_id(parts: Sequence[Part]) -> Order:
    ids = [part.indexed.live_ids for part in parts]
    keys = np.concatenate([keys_of(number, each) for number, each in enumerate(ids)])
    if len(parts) > 1:
        keys = keys[np.argsort(np.concatenate(ids), kind="stable")]
    return Order(keys=keys, known=len(keys))


def _by_column(parts: Sequence[Part], column: Column, seconds: float) -> Order:
    """Sorted by the database of the first index, which is given the columns of the others."""
    import duckdb

    first = parts[0].filter.database
    try:
        with first.session(seconds) as session:
            union = _values(parts[0], column, session)
            for number, part in enumerate(parts[1:], start=1):
                with part.filter.database.session(seconds) as other:
                    session.register(f"part_{number}", other.table(_values(part, column, other, number)))
                union += f" UNION ALL SELECT * FROM part_{number}"
            [(known,)] = session.rows(f"SELECT count(value) FROM ({union})")
            found = session.arrays(f"SELECT key FROM ({union}) ORDER BY value, key")
    except duckdb.InterruptException as error:
        raise QueryError(f"Ordering the rows by {column.name!r} took longer than {seconds:g} s.") from error
    except duckdb.Error as error:
        for part in parts:
            part.filter.database.refuse_damage()
        raise QueryError(f"Rows cannot be ordered by {column.name!r}: {first_line(error)}.") from error
    return Order(keys=np.asarray(found["key"], dtype=np.int64), known=known)


def _values(part: Part, column: Column, session: Session, number: int = 0) -> str:
    """SQL for the key and the value of every row of one index."""
    is_there, name = column.name in part.filter.database.columns, quoted(column.name)
    if not is_there:
        name = "NULL"
    elif column.kind == "number":
        name = f"CASE WHEN isfinite({name}::DOUBLE) THEN {name} END"
    source = session.source({column.name} if is_there else ())
    return f"SELECT id + {keys_of(number, np.zeros(1, np.int64))[0]} AS key, {name} AS value FROM {source}"
