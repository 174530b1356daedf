"""Conditions that ask for work without end, or for more than a comparison, are refused before they run."""

import time

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.engine.condition import MAX_BYTES
from llm2clip_search.engine.filter import Filter
from llm2clip_search.engine.kinds import FUNCTIONS
from llm2clip_search.engine.time_limit import time_limit
from llm2clip_search.errors import QueryError
from llm2clip_search.store import Snapshot
from tests.support.stores import fill


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Filter:
    folder = tmp_path_factory.mktemp("it's a folder") / "i"
    fill(folder, *range(20))
    return Filter(Snapshot(folder))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("length(repeat('x', 2000000000)) > 0", "cannot use the function repeat"),
        ("len(range(1000000000)) > 0", "cannot use the function range"),
        ("lpad('x', 2000000000, 'y') = path", "cannot use the function lpad"),
        ("sleep(100) IS NULL", "cannot use the function sleep"),
        ("getenv('HOME') = 'x'", "cannot use the function getenv"),
        ("main.pg_catalog.version() = 'x'", "cannot use the function"),
        ("read_blob('/etc/passwd') IS NOT NULL", "cannot use the function read_blob"),
        ("EXISTS (SELECT 1 FROM range(1000000000000))", "cannot contain a subquery"),
        ("id IN (FROM images)", "cannot contain a subquery|not a valid condition"),
        ("list_contains([x FOR x IN range(1000000000)], id)", "cannot use the function|cannot contain a lambda"),
        ("CASE WHEN width > 1 THEN true ELSE false END", "cannot contain a case"),
        ("row_number() OVER () > 1", "cannot contain a window"),
        ("count(*) > 1", "cannot use the function count_star"),
        ("width > $secret", "one condition; several"),
        ("path COLLATE NOCASE = 'x'", "cannot contain a collate"),
        ("CAST(path AS BLOB) = 'x'", "cannot cast to BLOB"),
        ("path::JSON IS NULL", "cannot cast to JSON"),
        ("(" * 1500 + "true" + ")" * 1500, "nested too deeply|not a valid condition"),
        ("true AND " * 500 + "true", "bytes long, but at most"),
        ("NOT " * 1000 + "true", "nested too deeply|not a valid condition"),
        ("true; COPY images TO '/tmp/stolen.csv'", "not a valid condition|one condition; several"),
        ("true) OR (true", "not a valid condition"),
        ("true) ORDER BY (id", "one condition; several|not a valid condition"),
        ("true) GROUP BY (id", "one condition; several|not a valid condition"),
    ],
)
def test_what_is_refused_is_named_and_costs_nothing(conditions: Filter, where: str, message: str) -> None:
    started = time.perf_counter()
    with pytest.raises(QueryError, match=message):
        conditions.ids(where)
    assert time.perf_counter() - started < 5


def test_a_long_condition_is_refused_with_both_numbers(conditions: Filter) -> None:
    with pytest.raises(QueryError, match=r"4,100 bytes long, but at most 4,096"):
        conditions.ids("id = 1".ljust(4100))
    assert conditions.ids("id = 1".ljust(MAX_BYTES)).tolist() == [1]


@settings(max_examples=200, deadline=None)
@given(where=st.text(max_size=60))
def test_any_text_is_a_filter_or_a_sentence(conditions: Filter, where: str) -> None:
    sentence = ""
    try:
        conditions.ids(where)
    except QueryError as error:
        sentence = str(error)
    assert "\n" not in sentence


leaves = st.sampled_from(
    ["id = 3", "width > 2", "path LIKE '%1%'", "taken IS NULL", "id IN (1, 2)", "true", "camera = 'x'"]
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda part: f"NOT ({part})"),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(where=trees)
def test_logic_is_that_of_sql(conditions: Filter, where: str) -> None:
    """What meets a condition and what meets its negation are disjoint; what meets neither is NULL."""
    met, unmet = set(conditions.ids(where).tolist()), set(conditions.ids(f"NOT ({where})").tolist())
    unknown = set(conditions.ids(f"({where}) IS NULL").tolist())
    assert met | unmet | unknown == set(range(20))
    assert not met & unmet


def test_what_takes_too_long_is_interrupted() -> None:
    with duckdb.connect() as connection, time_limit(connection, 0.2):
        started = time.perf_counter()
        with pytest.raises(duckdb.InterruptException):
            connection.execute("SELECT count(*) FROM range(1000000000000) WHERE random() < 0.5").fetchall()
        assert time.perf_counter() - started < 20


def test_functions_are_harmless_by_name() -> None:
    """A list that somebody adds to without thinking would be worth nothing."""
    assert not FUNCTIONS.keys() & {
        "repeat",
        "range",
        "generate_series",
        "lpad",
        "rpad",
        "getenv",
        "read_text",
        "query",
        "glob",
    }
