"""Orders of columns, counts of values and places, and rows that were chosen, against Python over the rows."""

import copy
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from llm2clip_search.engine import Chosen, Condition, Query, Searcher, SearchIndex, SearchIndices, Term
from llm2clip_search.engine.database import Database, Session
from llm2clip_search.engine.held_columns import HeldColumns
from llm2clip_search.errors import ConditionError, QueryError
from llm2clip_search.store import Row, Snapshot, Writer
from tests.support.encoders import ColourEncoder
from tests.support.photos import photos, rows_of

ONE, OTHER = rows_of(300, seed=1), rows_of(80, seed=2)


@pytest.fixture(scope="module", params=["one index", "two indices"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Searcher, list[list[Row]]]:
    base = tmp_path_factory.mktemp("browser")
    first = photos(base / "one", ONE)
    if request.param == "one index":
        return first, [ONE]
    return SearchIndices([first, photos(base / "two", OTHER)], ColourEncoder()), [ONE, OTHER]


def value_of(row: Row, column: str) -> Any:
    return row.mtime_ns if column == "mtime" else getattr(row, column)


@pytest.mark.parametrize("sort", ["id", "-id", "taken", "-taken", "camera", "-camera", "size", "-rating", "mtime"])
@pytest.mark.parametrize("where", [None, "width > 4000"])
def test_rows_come_in_the_order_of_a_column(
    served: tuple[Searcher, list[list[Row]]], sort: str, where: str | None
) -> None:
    searcher, indices = served
    name, is_descending = sort.removeprefix("-"), sort.startswith("-")
    rows = [
        (number, row) for number, rows in enumerate(indices) for row in rows if where is None or (row.width or 0) > 4000
    ]
    known = [each for each in rows if value_of(each[1], name) is not None]
    missing = [each for each in rows if value_of(each[1], name) is None]
    known.sort(key=lambda each: (value_of(each[1], name), each[0], each[1].id), reverse=is_descending)
    expected = [(number, row.id) for number, row in (*known, *missing)]
    found: list[tuple[int, int]] = []
    folders = [str(part.snapshot.folder) for part in searcher.parts]
    while True:
        page = searcher.browse(where, sort=sort, offset=len(found), k=97)
        assert page.matches == len(expected)
        assert [hit.rank for hit in page.hits] == list(range(len(found) + 1, len(found) + len(page.hits) + 1))
        assert not any("score" in hit.to_dict() for hit in page.hits)
        found += [(folders.index(hit.index) if hit.index else 0, hit.id) for hit in page.hits]
        if not page.hits:
            break
    assert found == expected


def test_the_newest_rows_come_first_and_wrong_orders_are_refused(served: tuple[Searcher, list[list[Row]]]) -> None:
    searcher, indices = served
    assert searcher.browse(k=3).hits[0].id == max(row.id for rows in indices for row in rows)
    assert searcher.browse("id < 0").hits == []
    with pytest.raises(QueryError, match="have no order"):
        searcher.browse(sort="keywords")
    with pytest.raises(QueryError, match="cannot be ordered by 'score'"):
        searcher.browse(sort="score")
    with pytest.raises(QueryError, match="offset"):
        searcher.browse(offset=-1)


def test_values_are_counted_as_python_counts_them(served: tuple[Searcher, list[list[Row]]]) -> None:
    searcher, indices = served
    for where, keeps in ((None, lambda row: True), ("width > 4000", lambda row: row.width > 4000)):
        rows = [row for each in indices for row in each if keeps(row)]
        found = searcher.facets(where, columns=["camera", "keywords", "format", "rating", "size", "taken", "mtime"])
        assert (found.matches, found.partial) == (len(rows), False)
        facets = {facet.column: facet for facet in found.facets}
        for name in ("camera", "format"):
            counts = Counter(value_of(row, name) for row in rows if value_of(row, name) is not None)
            assert dict(facets[name].values) == counts
            assert [count for _, count in facets[name].values] == sorted(counts.values(), reverse=True)
            assert (facets[name].distinct, facets[name].missing) == (len(counts), len(rows) - counts.total())
        words = Counter(word for row in rows for word in row.keywords or [])
        assert dict(facets["keywords"].values) == words
        assert facets["keywords"].missing == sum(not row.keywords for row in rows)
        for name in ("rating", "size"):
            known = [value_of(row, name) for row in rows if value_of(row, name) is not None]
            assert facets[name].missing == len(rows) - len(known)
            for each in facets[name].bins:
                assert each.count == sum(each.start <= value < each.end for value in known), each
            assert sum(each.count for each in facets[name].bins) == len(known)
        moments = {
            "taken": [row.taken for row in rows if row.taken is not None],
            "mtime": [datetime.fromtimestamp(row.mtime_ns / 1e9, UTC).replace(tzinfo=None) for row in rows],
        }
        for name, known in moments.items():
            for each in facets[name].bins:
                assert each.count == sum(str(each.start) <= str(moment) < str(each.end) for moment in known), each
            assert sum(each.count for each in facets[name].bins) == len(known)
            assert facets[name].missing == len(rows) - len(known)


def test_facets_lead_back_to_their_rows(served: tuple[Searcher, list[list[Row]]]) -> None:
    """Each value and bin is a condition that as many rows meet."""
    searcher, _ = served
    for facet in searcher.facets().facets:
        for each in facet.bins:
            quote = "'" if facet.kind == "time" else ""
            name = facet.column
            where = f"{name} >= {quote}{each.start}{quote} AND {name} < {quote}{each.end}{quote}"
            assert searcher.count(where) == each.count, where


def test_columns_that_say_nothing_are_left_out(served: tuple[Searcher, list[list[Row]]]) -> None:
    searcher, _ = served
    names = [facet.column for facet in searcher.facets("camera IS NULL").facets]
    assert "camera" not in names
    assert "format" in names
    [asked] = searcher.facets(columns=["caption"], limit=1).facets
    assert (asked.values, asked.missing) == ((), len(searcher))
    assert searcher.facets(columns=[]).facets == ()
    with pytest.raises(QueryError, match="no column 'breadth'"):
        searcher.facets(columns=["breadth"])


def test_places_are_counted_in_cells(served: tuple[Searcher, list[list[Row]]]) -> None:
    searcher, indices = served
    placed = {
        (n, row.id): (row.latitude, row.longitude)
        for n, rows in enumerate(indices)
        for row in rows
        if row.latitude is not None and row.longitude is not None
    }
    found = searcher.places()
    assert found.matches == len(placed) == sum(cell.count for cell in found.cells)
    south, west, north, east = found.bounds
    assert [south, north] == [f(latitude for latitude, _ in placed.values()) for f in (min, max)]
    size = max(north - south, east - west) / 64
    cells = {key: (int((y - south) / size), int((x - west) / size)) for key, (y, x) in placed.items()}
    expected = Counter((min(63, y), min(63, x)) for y, x in cells.values())
    assert sorted(expected.values()) == sorted(cell.count for cell in found.cells)
    for cell in found.cells:
        y, x = cells[cell.index, cell.id]
        assert cell.count == expected[min(63, y), min(63, x)]
    over_date_line = searcher.places(bounds=(-90, 150, 90, -150), cells=4)
    assert over_date_line.matches == sum(abs(longitude) >= 150 for _, longitude in placed.values())
    assert all(abs(cell.longitude) >= 150 for cell in over_date_line.cells)
    assert searcher.places("latitude IS NULL").cells == ()
    assert searcher.places(bounds=(0, 0, 0, 0)).cells == ()
    for wrong in ((1, 2, 3), (5, 0, 1, 0), (0, 0, 91, 0), (0, float("nan"), 1, 1)):
        with pytest.raises(QueryError, match="bounds of places"):
            searcher.places(bounds=wrong)


def test_chosen_rows_bound_every_question(served: tuple[Searcher, list[list[Row]]]) -> None:
    searcher, indices = served
    generator = np.random.default_rng(5)
    ids = [generator.permutation([row.id for row in rows])[:40] for rows in indices]
    among = Chosen([*ids])
    expected = {(n, int(each)) for n, of_it in enumerate(ids) for each in of_it}
    folders = [str(part.snapshot.folder) for part in searcher.parts]

    def keys(hits: list[Any]) -> set[tuple[int, int]]:
        return {(folders.index(hit.index) if hit.index else 0, hit.id) for hit in hits}

    result = searcher.query("dusk", k=1000, among=among)
    assert keys(result.hits) == expected
    assert [plan.matches for plan in result.plans] == [len(each) for each in ids]
    assert all(plan.strategy == "exact over matches" for plan in result.plans)
    assert keys(searcher.browse(among=among, k=1000).hits) == expected
    assert searcher.facets(among=among, columns=["format"]).matches == len(expected)
    wide = {(n, row.id) for n, rows in enumerate(indices) for row in rows if (row.width or 0) > 4000} & expected
    assert keys(searcher.query("dusk", where="width > 4000", k=1000, among=among).hits) == wide
    assert keys(next(searcher.query_batch(["dusk"], where="width > 4000", k=1000, among=ids)).hits) == wide
    nothing = searcher.query("dusk", among=[[] for _ in indices])
    assert nothing.hits == []
    assert searcher.count(among=[[-1, 10**9] for _ in indices]) == 0
    with pytest.raises(QueryError, match="chosen of 3 indices"):
        searcher.query("dusk", among=[[1], [2], [3]])
    for wrong in ([[1.5]], [["1"]], [[[1]]], [[2**63]]):
        with pytest.raises(QueryError, match="id"):
            searcher.query("dusk", among=wrong)  # type: ignore[arg-type]


def test_chosen_rows_are_a_value() -> None:
    one, same, other = Chosen([[3, 1, 1]]), Chosen([np.array([1, 3])]), Chosen([[1], [3]])
    assert (one == same, hash(one) == hash(same), one == other) == (True, True, False)
    terms = (Term(kind="text", value="dusk"),)
    assert len({Query(terms=terms, among=each) for each in (one, same, other)}) == 2
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == "Chosen(2 rows)"


def test_what_each_condition_removes(served: tuple[Searcher, list[list[Row]]]) -> None:
    searcher, indices = served
    rows = [row for each in indices for row in each]
    tests: list[Callable[[Row], bool]] = [
        lambda row: (row.width or 0) > 4000,
        lambda row: row.format == "PNG",
        lambda row: row.camera == "Fuji X-T5",
    ]
    conditions = ["width > 4000", "format = 'PNG'", "camera = 'Fuji X-T5'"]
    expected = [
        sum(all(test(row) for test in tests if test is not dropped) for row in rows) for dropped in [*tests, None]
    ]
    assert searcher.count_without(conditions) == expected[:3]
    none = [np.empty(0, dtype=np.int64) for _ in indices]
    assert searcher.count_without(conditions, among=none) == [0, 0, 0, expected[3]]
    assert searcher.count_without([]) == []


def test_a_copy_browses_too(served: tuple[Searcher, list[list[Row]]]) -> None:
    searcher, _ = served
    searcher.browse(sort="taken")
    for other in (copy.copy(searcher), pickle.loads(pickle.dumps(searcher))):
        assert [hit.id for hit in other.browse(sort="taken").hits] == [
            hit.id for hit in searcher.browse(sort="taken").hits
        ]


def test_columns_that_are_held_answer_the_same(tmp_path: Path) -> None:
    plain, held = photos(tmp_path / "i", ONE), SearchIndex(Snapshot(tmp_path / "i"))
    held.hold()
    held.hold(["caption", "no such column"])
    assert held.facets() == plain.facets()
    assert held.places() == plain.places()


SLOW = "SELECT count(*) AS id FROM range(1000000000000) WHERE random() < 0.5"


def test_an_interrupt_between_statements_is_not_lost(tmp_path: Path) -> None:
    photos(tmp_path / "i", ONE)
    with Database(Snapshot(tmp_path / "i")).session(0.1) as session:
        assert session.rows("SELECT 1") == [(1,)]
        time.sleep(0.2)
        with pytest.raises(duckdb.InterruptException):
            session.rows(SLOW)


def test_a_condition_that_takes_too_long_is_refused_for_each_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "i", ONE)
    index = copy.copy(SearchIndex(Snapshot(tmp_path / "i"), condition_seconds=0.3))
    arrays = Session.arrays
    monkeypatch.setattr(Session, "arrays", lambda self, sql: arrays(self, SLOW if "width > 3" in sql else sql))

    def ask(where: str) -> str:
        try:
            return str(index.count(where))
        except ConditionError as error:
            return str(error)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, ["width > 3", "width > 4", "width > 3", "width > 4"]))
    assert found[::2] == ["The condition took longer than 0.3 s."] * 2
    assert found[1::2] == [str(sum((row.width or 0) > 4 for row in ONE))] * 2


def test_nobody_waits_for_the_order_of_another_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting ten million rows takes a while, and the newest rows are at hand."""
    index = photos(tmp_path / "i", ONE)
    sorting, sorted_, rows = Event(), Event(), Session.arrays

    def waiting(self: Session, sql: str) -> Any:
        if "ORDER BY value" in sql:
            sorting.set()
            assert sorted_.wait(60)
        return rows(self, sql)

    monkeypatch.setattr(Session, "arrays", waiting)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(index.browse, sort="path")
        assert sorting.wait(60)
        assert len(pool.submit(index.browse).result(60).hits) == 10
        assert not slow.done()
        sorted_.set()
        assert len(slow.result(60).hits) == 10


def test_columns_that_load_slowly_are_read_from_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "i", ONE)
    index = SearchIndex(Snapshot(tmp_path / "i"), condition_seconds=1.0)
    loads: list[frozenset[str]] = []

    def load(_: object, cursor: Any, wanted: frozenset[str]) -> None:
        loads.append(wanted)
        cursor.execute(SLOW)

    with monkeypatch.context() as patched:
        patched.setattr(HeldColumns, "_load", load)
        assert len({index.count("width > 4") for _ in range(4)}) == 1
    assert loads == [frozenset({"width"})]
    index.hold(["width"])
    assert index.count("width > 4") == sum((row.width or 0) > 4 for row in ONE)


def test_counts_that_take_too_long_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = photos(tmp_path / "i", ONE)
    rows = Session.rows
    monkeypatch.setattr(Session, "rows", lambda self, sql: rows(self, SLOW if "histogram(" in sql else sql))
    found = index.facets(seconds=0.5)
    assert found.partial
    assert [facet.column for facet in found.facets] == ["camera", "format", "keywords"]


def test_large_numbers_of_corpora_are_counted(tmp_path: Path) -> None:
    """Milliseconds, ids of 18 digits, and the largest floats there are: all rows, and one of them."""
    own = {
        "ms": pa.array([1_700_000_000_000 + n % 6 for n in range(40)]),
        "number": pa.array([10**17 + 1000 * n for n in range(40)]),
        "unsigned": pa.array([2**64 - 1 - n for n in range(40)], pa.uint64()),
        "extreme": pa.array([sys.float_info.max * (-1) ** n for n in range(40)]),
        "skewed": pa.array([sys.float_info.max if n == 7 else 1e-300 for n in range(40)]),
    }
    encoder = ColourEncoder()
    vectors = np.eye(40, encoder.dim, dtype=np.float32) + 1e-3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with Writer.open(tmp_path / "own", model=encoder.identity, dim=encoder.dim) as writer:
        writer.commit(rows_of(40, seed=6), vectors, columns=pa.table(own))
    index = SearchIndex(Snapshot(tmp_path / "own"), encoder)
    for where, rows in ((None, 40), ("id = 7", 1)):
        facets = {facet.column: facet for facet in index.facets(where, columns=own).facets}
        assert {name: sum(each.count for each in facets[name].bins) for name in own} == dict.fromkeys(own, rows)
    [milliseconds] = index.facets(columns=["ms"]).facets
    assert [each.count for each in milliseconds.bins] == [7, 7, 7, 7, 6, 6]


def test_columns_of_corpora_are_asked_for_like_others(tmp_path: Path) -> None:
    """Of each type, with names that SQL has to quote, in memory and not, and in an index that lacks them."""
    rows, day = rows_of(40, seed=6), datetime(2026, 11, 25, tzinfo=UTC)
    own = {
        'odd "name" select': pa.array([f"v{n % 3}" if n % 4 else None for n in range(40)]),
        "is_sold": pa.array([bool(n % 2) for n in range(40)]),
        "price": pa.array([n / 10 if n % 5 else float("nan") for n in range(40)]),
        "cost": pa.array([Decimal(n) / 4 for n in range(40)], pa.decimal128(10, 2)),
        "day": pa.array([(day + timedelta(days=n)).date() for n in range(40)]),
        "zoned": pa.array([day + timedelta(days=40 * n) for n in range(40)], pa.timestamp("ns", "Europe/Berlin")),
        "sizes": pa.array([[n % 3, 7] for n in range(40)], pa.list_(pa.int64())),
        "object": pa.array([{"a": n} for n in range(40)]),
    }
    encoder = ColourEncoder()
    vectors = np.eye(40, encoder.dim, dtype=np.float32) + 1e-3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with Writer.open(tmp_path / "own", model=encoder.identity, dim=encoder.dim) as writer:
        writer.commit(rows, vectors, columns=pa.table(own))
    index = SearchIndex(Snapshot(tmp_path / "own"), encoder)
    kinds = {name: index.filter_columns[name].kind for name in own}
    assert list(kinds.values()) == ["text", "flag", "number", "number", "time", "time", "list", "other"]
    forms = {
        Condition(column='odd "name" select', op="=", value="v1"): sum(n % 4 > 0 and n % 3 == 1 for n in range(40)),
        Condition(column="is_sold", op="=", value=True): 20,
        Condition(column="is_sold", op="!=", value=True): 20,
        Condition(column="price", op="<", value=1.05): 8,
        Condition(column="cost", op=">=", value=9.5): 2,
        Condition(column="day", op="=", value="2026-11"): 6,
        Condition(column="zoned", op="<", value="2027"): 1,
        Condition(column="sizes", op="has", value=2): 13,
        Condition(column="object", op="is_null"): 0,
    }
    plain = photos(tmp_path / "plain", rows_of(20))
    both, turned = SearchIndices([index, plain], encoder), SearchIndices([plain, index], encoder)
    for _ in range(2):
        for condition, count in forms.items():
            where = index.where([condition])
            assert index.conditions(where) == [condition]
            assert index.count(where) == count, where
            for several in (both, turned):
                assert several.where([condition]) == where
                assert several.count(where) == count + 20 * (condition.op == "is_null"), where
        facets = {facet.column: facet for facet in index.facets(columns=own).facets}
        assert dict(facets["is_sold"].values) == {True: 20, False: 20}
        assert dict(facets["sizes"].values)[7] == 40
        assert facets['odd "name" select'].missing == 10
        assert facets["price"].missing == 8
        assert sum(each.count for each in facets["cost"].bins) == 40
        assert [each.start for each in facets["day"].bins][:2] == ["2026-11-25", "2026-11-26"]
        assert sum(each.count for each in facets["zoned"].bins) == 40
        assert (facets["object"].values, facets["object"].missing) == ((), 0)
        together = {facet.column: facet for facet in both.facets(columns=["price", "is_sold"]).facets}
        assert (together["price"].missing, together["is_sold"].missing) == (28, 20)
        order = [hit.id for hit in both.browse(sort="-price", k=60).hits]
        assert order[:3] == [39, 38, 37]
        for name in ("cost", "day", "zoned", "is_sold"):
            assert sorted(hit.id for hit in index.browse(sort=name, k=60).hits) == list(range(40))
        assert len(order) == 60
        index.hold(own)
