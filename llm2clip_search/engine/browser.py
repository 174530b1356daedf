"""What can be asked of indices without any vector: which rows meet a condition, in which order, and of what kinds."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llm2clip_search.engine.candidates import ListedRows, Part
from llm2clip_search.engine.chosen import ChosenRows, as_chosen
from llm2clip_search.engine.columns import Column, columns_of
from llm2clip_search.engine.joining import Joined
from llm2clip_search.engine.numbers import whole_number
from llm2clip_search.engine.order import NEWEST, Orders
from llm2clip_search.engine.query import Find
from llm2clip_search.engine.results import Listing
from llm2clip_search.engine.time_limit import TIME_LIMIT_S
from llm2clip_search.errors import ConditionError, QueryError

if TYPE_CHECKING:
    from llm2clip_search.engine.facets import Facets
    from llm2clip_search.engine.form import Condition
    from llm2clip_search.engine.places import Places

FACET_SECONDS = 1.0


class Browser(ABC):
    """Conditions, orders and counts over one index or several."""

    def __init__(self) -> None:
        self._orders = Orders()

    @property
    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """The indices, in the order in which they were named."""

    def __len__(self) -> int:
        return sum(part.snapshot.manifest.live for part in self.parts)

    @cached_property
    def filter_columns(self) -> Mapping[str, Column]:
        """The columns that conditions may name, of all indices."""
        found: dict[str, Column] = {}
        for part in self.parts:
            found = columns_of(part.snapshot.schema) | found
        return found

    def hold(self, columns: Iterable[str] | None = None) -> None:
        """Load columns into memory now, for a program that will ask for them often; by default those of facets."""
        from llm2clip_search.engine.facets import usual_columns

        names = usual_columns(self.filter_columns) if columns is None else list(columns)
        for part in self.parts:
            part.filter.database.hold(names)

    def where(self, conditions: Iterable["Condition"]) -> str:
        """The SQL condition that a form says; empty without any condition.

        Raises:
            ConditionError: a condition that does not fit its column; the message says which.
        """
        from llm2clip_search.engine.form import sql_of

        columns, written = self.filter_columns, []
        for number, condition in enumerate(conditions, start=1):
            try:
                written.append(sql_of(condition, columns))
                self.parts[0].filter.read(written[-1])
            except QueryError as error:
                raise ConditionError(f"Condition {number}: {error}", hint=error.hint) from error
        return " AND ".join(written)

    def conditions(self, where: str) -> "list[Condition] | None":
        """The form that says what an SQL condition says; None if no form does.

        Raises:
            ConditionError: as `Filter.read`.
        """
        from llm2clip_search.engine.form_reader import conditions_in

        return conditions_in(self.parts[0].filter.read(where).typed, self.filter_columns)

    def count(self, where: str | None = None, *, find: Find | None = None, among: ChosenRows | None = None) -> int:
        """How many rows meet a condition; arguments and errors as of `browse`."""
        return self._rows(where, find, among).total

    def count_without(
        self,
        conditions: Sequence[str],
        *,
        find: Find | None = None,
        among: ChosenRows | None = None,
        seconds: float = TIME_LIMIT_S,
    ) -> list[int]:
        """How many rows meet all of some conditions but one: for each of them, and at last for ``among`` if given.

        So a program can say which condition leaves nothing. Arguments and errors as of `browse`.

        Args:
            seconds: the most that it may take.
        """
        end = time.monotonic() + seconds
        every, chosen = self._rows(None, find, None), self._rows(None, find, among)
        totals = np.zeros(len(conditions) + (among is not None), dtype=np.int64)
        for number, (part, base) in enumerate(zip(self.parts, every.matches, strict=True)):
            ids = part.indexed.live_ids if base is None else base
            pieces = [part.filter.ids(each, seconds=max(0.0, end - time.monotonic())) for each in conditions]
            if (of_chosen := chosen.matches[number]) is not None and among is not None:
                pieces.append(of_chosen)
            if pieces:
                unmet = np.stack([~np.isin(ids, piece, assume_unique=True) for piece in pieces])
                failed = unmet.sum(axis=0)
                totals += np.count_nonzero(failed == 0) + np.count_nonzero(unmet & (failed == 1), axis=1)
        return [int(total) for total in totals]

    def browse(
        self,
        where: str | None = None,
        *,
        find: Find | None = None,
        sort: str | None = None,
        offset: int = 0,
        k: int = 10,
        among: ChosenRows | None = None,
    ) -> Listing:
        """The rows that meet a condition, in the order of a column; nothing is searched for.

        Args:
            where: SQL condition over the metadata; None are all rows.
            find: ``images`` or ``texts``, as in `query`.
            sort: a column, as ``"taken"``, or ``"-taken"`` for descending order; by default the newest rows come
                first. Rows without a value come last in either order.
            offset: rows to skip, for paging.
            k: rows to return.
            among: for each index, the ids of the rows that count.

        Raises:
            QueryError: a column that does not exist or has no order, wrong SQL, or texts of indices that hold none.
        """
        started = time.perf_counter()
        offset, k = whole_number(offset, "The offset", least=0), whole_number(k, "k", least=1)
        sort = NEWEST if sort is None else sort
        columns, name = self.filter_columns, sort.removeprefix("-")
        if name not in columns:
            raise QueryError(f"Rows cannot be ordered by {name!r}; the columns are {', '.join(columns)}.")
        rows = self._rows(where, find, among)
        filtered = time.perf_counter()
        order = self._orders.of(self.parts, columns[name], seconds=TIME_LIMIT_S)
        keys, total = order.page(rows.matches, descending=sort.startswith("-"), offset=offset, k=k)
        ordered = time.perf_counter()
        joined = Joined(self.parts, keys)
        hits = [joined.listed(key, rank=rank) for rank, key in enumerate(keys, start=offset + 1)]
        seconds = {"plan": filtered - started, "search": ordered - filtered, "join": time.perf_counter() - ordered}
        return Listing(hits=hits, matches=total, find=rows.find, seconds=seconds)

    def facets(
        self,
        where: str | None = None,
        *,
        find: Find | None = None,
        among: ChosenRows | None = None,
        columns: Iterable[str] | None = None,
        limit: int = 20,
        seconds: float = FACET_SECONDS,
    ) -> "Facets":
        """What values the rows that meet a condition have in some columns, and how often.

        Args:
            where, find, among: as for `browse`.
            columns: names; by default those that are there and worth counting.
            limit: values of a column, the most frequent ones, and about the most bins of a number.
            seconds: columns that are not counted after so long are left out.

        Raises:
            QueryError: as `browse`.
        """
        from llm2clip_search.engine.facets import count_values, usual_columns

        known = self.filter_columns
        names = usual_columns(known) if columns is None else list(dict.fromkeys(columns))
        if unknown := [name for name in names if name not in known]:
            raise QueryError(f"There is no column {unknown[0]!r}; the columns are {', '.join(known)}.")
        rows = self._rows(where, find, among)
        limit = whole_number(limit, "The limit of values", least=1)
        return count_values(rows, [known[name] for name in names], limit, seconds, is_choice=columns is None)

    def places(
        self,
        where: str | None = None,
        *,
        find: Find | None = None,
        among: ChosenRows | None = None,
        bounds: Sequence[float] | None = None,
        cells: int = 64,
        seconds: float = FACET_SECONDS,
    ) -> "Places":
        """Where the rows that meet a condition were made: counts in the cells of a grid.

        Args:
            where, find, among: as for `browse`.
            bounds: south, west, north and east, degrees; a west that is east of the east goes over the date line. By
                default what holds all of them.
            cells: of the longer side of the grid.
            seconds: the most that it may take.

        Raises:
            QueryError: as `browse`, bounds that are none, or if it takes longer.
        """
        from llm2clip_search.engine.places import count_places

        cells = whole_number(cells, "The number of cells", least=1)
        return count_places(self._rows(where, find, among), bounds, cells, seconds)

    def _rows(self, where: str | None, find: Find | None, among: ChosenRows | None) -> ListedRows:
        return ListedRows(self.parts, where, find, as_chosen(among))
