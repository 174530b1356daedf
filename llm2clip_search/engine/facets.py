"""How often the values of columns occur among some rows.

Every column is counted in one pass over it in memory. Numbers and times take a pass of their own before, from which
their bins follow, for all of them together.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from llm2clip_search.engine.bins import Edges, number_edges, time_edges
from llm2clip_search.engine.candidates import ListedRows, Part
from llm2clip_search.engine.columns import Column, ColumnKind
from llm2clip_search.engine.database import Session, quoted
from llm2clip_search.errors import QueryError, first_line

USUAL = ("taken", "camera", "format", "keywords", "rating", "width", "height", "size", "mtime")
"""Fixed columns that are counted unless others are named."""
MOST_COLUMNS = 16
MOST_GROUPS = 10_000
"""Values of a column of each index that are added up if there are several indices; rarer ones may be missing."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """A range of numbers or times."""

    start: float | str
    """The least of it."""
    end: float | str
    """Just above it."""
    count: int


@dataclass(frozen=True, kw_only=True)
class Facet:
    """The values of one column."""

    column: str
    kind: ColumnKind
    missing: int
    """Rows without a value."""
    distinct: int
    """Different values; about so many of numbers and times, and of text in several indices."""
    values: tuple[tuple[str | float | bool, int], ...] = ()
    """The most frequent ones and how often they occur, of text, lists and flags."""
    bins: tuple[Bin, ...] = ()
    """Of numbers and times, in ascending order without gaps."""


@dataclass(frozen=True, kw_only=True)
class Facets:
    """The values of some columns among the rows that meet a condition."""

    matches: int
    """These rows."""
    facets: tuple[Facet, ...]
    partial: bool
    """True if some columns are left out because the time was over."""


def usual_columns(columns: Mapping[str, Column]) -> list[str]:
    """What is counted unless columns are named: what fits a list or a histogram, those of corpora included."""
    own = [name for name, column in columns.items() if not column.is_fixed and column.kind != "other"]
    return [*(name for name in USUAL if name in columns), *own][:MOST_COLUMNS]


def count_values(rows: ListedRows, columns: Sequence[Column], limit: int, seconds: float, *, is_choice: bool) -> Facets:
    """Count the values of some columns.

    Args:
        limit: values of a column at most, and about the most bins.
        is_choice: leave out columns without any value, and text in which no value occurs twice.

    Raises:
        DamagedError: the metadata of a shard is damaged.
    """
    import duckdb

    found: dict[str, Facet] = {}
    is_over = False
    if not columns:
        return Facets(matches=rows.total, facets=(), partial=False)
    with ExitStack() as stack:
        try:
            tables = [
                stack.enter_context(_table(part, matches, columns, seconds))
                for part, matches in zip(rows.parts, rows.matches, strict=True)
            ]
            for facet in _facets(tables, columns, rows.total, limit):
                found[facet.column] = facet
        except duckdb.InterruptException:
            is_over = True
        except duckdb.Error as error:
            for part in rows.parts:
                part.filter.database.refuse_damage()
            raise QueryError(f"The values cannot be counted: {first_line(error)}.") from error
    facets = [found[column.name] for column in columns if column.name in found]
    if is_choice:
        facets = [facet for facet in facets if _is_telling(facet, rows.total)]
    return Facets(matches=rows.total, facets=tuple(facets), partial=is_over)


def _is_telling(facet: Facet, total: int) -> bool:
    return facet.missing < total and (not facet.values or total == 1 or facet.values[0][1] > 1)


class _Table:
    """The rows that count of one index, with a column ``c0``, ``c1``, ... for each that is counted."""

    def __init__(self, session: Session, source: str) -> None:
        self._session, self._source = session, source

    def row(self, expressions: Iterable[str]) -> tuple[Any, ...]:
        """One row of aggregates."""
        return self._session.rows(f"SELECT {', '.join(expressions)} FROM {self._source}")[0]

    def groups(self, name: str, limit: int, *, is_list: bool) -> list[tuple[Any, int, int]]:
        """The most frequent values, their counts, and each time the number of all of them."""
        source = f"(SELECT unnest({name}) AS {name} FROM {self._source})" if is_list else self._source
        sql = f"SELECT {name}, count(*) AS n, count(*) OVER () FROM {source} WHERE {name} IS NOT NULL GROUP BY 1"
        return self._session.rows(f"{sql} ORDER BY n DESC, 1 LIMIT {limit}")


@contextmanager
def _table(part: Part, matches: np.ndarray | None, columns: Sequence[Column], seconds: float) -> Iterator[_Table]:
    database = part.filter.database
    there = [column.name for column in columns if column.name in database.columns]
    shown = ", ".join(f"{_expression(column, part)} AS c{n}" for n, column in enumerate(columns))
    with database.session(seconds) as session:
        chosen = f"SELECT {shown or 'id'} FROM {session.source([*there, 'id'])}"
        if matches is None:
            yield _Table(session, f"({chosen})")
            return
        session.register("chosen", pa.table({"id": matches}))
        session.run(f"CREATE TEMP TABLE counted AS {chosen} SEMI JOIN chosen USING (id)")
        yield _Table(session, "counted")


_NULLS: Mapping[ColumnKind, str] = {"number": "DOUBLE", "time": "BIGINT", "list": "VARCHAR[]"}
"""Types of columns that an index does not have."""


def _expression(column: Column, part: Part) -> str:
    """A column's value as it is counted: null if it says nothing, numbers as doubles, times in microseconds."""
    if column.name not in part.filter.database.columns:
        return f"NULL::{_NULLS.get(column.kind, 'VARCHAR')}"
    name = quoted(column.name)
    if column.kind == "number":
        return f"CASE WHEN isfinite({name}::DOUBLE) THEN {name}::DOUBLE END"
    if column.kind == "time":
        # DuckDB has no other function for nanoseconds with a time zone.
        is_fine = column.name != "mtime" and str(part.snapshot.schema.field(column.name).type).startswith(
            "timestamp[ns"
        )
        return f"epoch_ns({name}) // 1000" if is_fine else f"epoch_us({name})"
    if column.kind == "list":
        return f"CASE WHEN len({name}) > 0 THEN {name} END"
    return name


def _facets(tables: Sequence[_Table], columns: Sequence[Column], total: int, limit: int) -> Iterator[Facet]:
    """The facets as they are counted."""
    names = [f"c{number}" for number in range(len(columns))]
    known = [
        sum(counts)
        for counts in zip(*(table.row([f"count({name})" for name in names]) for table in tables), strict=True)
    ]
    ranges: dict[str, Column] = {}
    for name, column, count in zip(names, columns, known, strict=True):
        if column.kind in ("number", "time") and count:
            ranges[name] = column
            continue
        is_list = column.kind == "list"
        can_be_grouped = column.kind in ("text", "flag") or (is_list and column.items not in (None, "other"))
        values, distinct = _groups(tables, name, limit, is_list=is_list) if can_be_grouped else ((), 0)
        yield Facet(column=column.name, kind=column.kind, missing=total - count, distinct=distinct, values=values)
    if ranges:
        missing = {name: total - count for name, count in zip(names, known, strict=True)}
        yield from _histograms(tables, ranges, missing, limit)


def _groups(
    tables: Sequence[_Table], name: str, limit: int, *, is_list: bool
) -> tuple[tuple[tuple[Any, int], ...], int]:
    """The most frequent values of a column with their counts, and the number of all values."""
    found = [table.groups(name, limit if len(tables) == 1 else MOST_GROUPS, is_list=is_list) for table in tables]
    counts = Counter[Any]()
    for rows in found:
        counts.update({value: count for value, count, _ in rows})
    distinct = max((rows[0][2] for rows in found if rows), default=0)
    # Stable, so that equally frequent values stay in the order of the values if there is one index.
    values = sorted(counts.items(), key=lambda each: -each[1])[:limit]
    return tuple(values), max(distinct, len(counts))


class _Shape(NamedTuple):
    """What bins follow from, of the values of one column in one index."""

    low: Any
    high: Any
    mean: float
    known: int
    distinct: int
    is_whole: bool


def _shape(table: _Table, name: str) -> _Shape:
    return _Shape(
        *table.row(
            (
                *(f"{each}({name})" for each in ("min", "max", "avg", "count", "approx_count_distinct")),
                f"bool_and({name} = floor({name}))",
            )
        )
    )


def _histograms(
    tables: Sequence[_Table], ranges: Mapping[str, Column], missing: Mapping[str, int], limit: int
) -> Iterator[Facet]:
    found = [{name: _shape(table, name) for name in ranges} for table in tables]
    edges: dict[str, Edges] = {}
    distinct: dict[str, int] = {}
    for name, column in ranges.items():
        known = [shapes[name] for shapes in found if shapes[name].known]
        low, high = min(shape.low for shape in known), max(shape.high for shape in known)
        distinct[name] = max(shape.distinct for shape in known)
        if column.kind == "time":
            edges[name] = time_edges(low, high)
        else:
            mean = sum(shape.mean * shape.known for shape in known) / sum(shape.known for shape in known)
            is_whole = all(shape.is_whole for shape in known)
            edges[name] = number_edges(low, high, mean, is_whole=is_whole, limit=limit)
    asked = [f"histogram({name}, {_uppers(edges[name], column.kind)})" for name, column in ranges.items()]
    counted = [table.row(asked) for table in tables]
    for (name, column), each in zip(ranges.items(), zip(*counted, strict=True), strict=True):
        names = edges[name].names
        totals = [sum(counts) for counts in zip(*(_counts(held, len(names) - 1) for held in each), strict=True)]
        bins = [Bin(start=start, end=end, count=n) for (start, end), n in zip(pairwise(names), totals, strict=True)]
        yield Facet(
            column=column.name, kind=column.kind, missing=missing[name], distinct=distinct[name], bins=tuple(bins)
        )


def _uppers(edges: Edges, kind: ColumnKind) -> str:
    """The ends of bins for DuckDB, whose bins hold what is at most their end."""
    if kind == "time":
        return "[" + ", ".join(f"{int(value) - 1}" for value in edges.values[1:]) + "]"
    # Written with an exponent, they are not rounded on the way through a decimal.
    return "[" + ", ".join(f"{np.nextafter(value, -np.inf):.17e}" for value in edges.values[1:]) + "]"


def _counts(held: Mapping[float, int] | None, bins: int) -> list[int]:
    """The counts of a histogram in ascending order; None if the index has no value."""
    return [0] * bins if held is None else [count for _, count in sorted(held.items())][:bins]
