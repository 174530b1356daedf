"""Where rows were made: counts in the cells of a grid, for a map that is drawn without tiles."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from llm2clip_search.engine.candidates import ListedRows, Part
from llm2clip_search.engine.database import Session
from llm2clip_search.engine.numbers import is_number
from llm2clip_search.errors import QueryError, first_line

LEAST_DEGREES = 0.001
"""Height and width of a grid at least: 100 metres."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the grid that holds rows."""

    latitude: float
    """Mean of its rows, degrees."""
    longitude: float
    count: int
    index: int
    """Number of the index of an example, from 0."""
    id: int
    """Id of the example."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Rows with a place."""

    bounds: tuple[float, float, float, float]
    """South, west, north and east of the grid, degrees; a west that is east of the east goes over the date line."""
    matches: int
    """Rows with a place within the bounds."""
    cells: tuple[Cell, ...]


def count_places(rows: ListedRows, bounds: Sequence[float] | None, cells: int, seconds: float) -> Places:
    """Count the places of some rows.

    Raises:
        QueryError: bounds that are none, or if it takes longer.
        DamagedError: the metadata of a shard is damaged.
    """
    import duckdb

    given = None if bounds is None else _checked(bounds)
    try:
        with ExitStack() as stack:
            tables = [
                stack.enter_context(_placed(part, matches, seconds))
                for part, matches in zip(rows.parts, rows.matches, strict=True)
            ]
            box = _around(tables) if given is None else given
            found: dict[tuple[int, int], Cell] = {}
            for number, table in enumerate(tables):
                for place, cell in _cells(table, number, box, cells):
                    found[place] = _together(found.get(place), cell)
    except duckdb.InterruptException as error:
        raise QueryError(f"Counting the places took longer than {seconds:g} s.") from error
    except duckdb.Error as error:
        for part in rows.parts:
            part.filter.database.refuse_damage()
        raise QueryError(f"The places cannot be counted: {first_line(error)}.") from error
    kept = tuple(_wrapped(cell) for _, cell in sorted(found.items(), key=lambda each: each[0]))
    return Places(bounds=box, matches=sum(cell.count for cell in kept), cells=kept)


def _checked(bounds: Sequence[float]) -> tuple[float, float, float, float]:
    if len(bounds) != 4 or not all(is_number(each) and np.isfinite(each) for each in bounds):
        raise QueryError("The bounds of places are south, west, north and east.")
    south, west, north, east = (float(each) for each in bounds)
    if not (-90 <= south <= north <= 90 and -180 <= west <= 180 and -180 <= east <= 180):
        raise QueryError(
            "The bounds of places are latitudes from -90 to 90, south first, and longitudes from -180 to 180."
        )
    return south, west, north, east


@contextmanager
def _placed(part: Part, matches: np.ndarray | None, seconds: float) -> Iterator[Session]:
    """A session with a view ``placed`` of the rows that count and have a place."""
    with part.filter.database.session(seconds) as session:
        chosen = ""
        if matches is not None:
            session.register("chosen", pa.table({"id": matches}))
            chosen = " SEMI JOIN chosen USING (id)"
        source = session.source(("id", "latitude", "longitude"))
        session.run(
            f"CREATE TEMP TABLE placed AS SELECT id, latitude AS y, longitude AS x FROM {source}{chosen}"
            " WHERE latitude BETWEEN -90 AND 90 AND longitude BETWEEN -180 AND 180"
        )
        yield session


def _around(tables: Sequence[Session]) -> tuple[float, float, float, float]:
    """What holds all places; the whole earth if there is none."""
    found = [table.rows("SELECT min(y), min(x), max(y), max(x) FROM placed")[0] for table in tables]
    boxes = np.array([box for box in found if box[0] is not None])
    if not len(boxes):
        return -90.0, -180.0, 90.0, 180.0
    (south, west), (north, east) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    return south, west, north, east


def _cells(
    table: Session, number: int, bounds: tuple[float, float, float, float], cells: int
) -> Iterator[tuple[tuple[int, int], Cell]]:
    """The cells of one index by row and column."""
    south, west, north, east = bounds
    x = "x" if west <= east else f"CASE WHEN x < {west!r} THEN x + 360 ELSE x END"
    east = east if west <= east else east + 360
    size = max(north - south, east - west, LEAST_DEGREES) / cells
    sql = (
        f"SELECT least(floor((y - {south!r}) / {size!r}), {cells - 1})::INTEGER,"
        f" least(floor((shifted - {west!r}) / {size!r}), {cells - 1})::INTEGER, avg(y), avg(shifted), count(*), min(id)"
        f" FROM (SELECT id, y, {x} AS shifted FROM placed)"
        f" WHERE y BETWEEN {south!r} AND {north!r} AND shifted BETWEEN {west!r} AND {east!r} GROUP BY 1, 2"
    )
    for row, column, latitude, longitude, count, example in table.rows(sql):
        cell = Cell(latitude=latitude, longitude=longitude, count=count, index=number, id=example)
        yield (row, column), cell


def _together(one: Cell | None, other: Cell) -> Cell:
    """A cell of several indices; its example is of the first."""
    if one is None:
        return other
    count = one.count + other.count
    return replace(
        one,
        latitude=(one.latitude * one.count + other.latitude * other.count) / count,
        longitude=(one.longitude * one.count + other.longitude * other.count) / count,
        count=count,
    )


def _wrapped(cell: Cell) -> Cell:
    """A cell east of the date line, with the longitude that people write."""
    return replace(cell, longitude=cell.longitude - 360) if cell.longitude > 180 else cell
