"""Comparisons of every column with dates, numbers, text and NULL: what people mean by them, or how to write it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.engine.columns import FIXED
from llm2clip_search.engine.condition import read_condition
from llm2clip_search.engine.filter import Filter
from llm2clip_search.engine.kinds import Kind
from llm2clip_search.errors import QueryError
from llm2clip_search.store import Row, Snapshot, Writer
from tests.support.stores import MODEL, vectors

NOW = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
TAKEN = [
    datetime(2015, 12, 31, 23, 59, 59),
    datetime(2016, 1, 1),
    datetime(2016, 3, 1),
    datetime(2016, 3, 31, 23, 59, 59),
    datetime(2016, 4, 1),
    datetime(2016, 10, 31, 23, 59, 59),
    datetime(2016, 11, 1),
    datetime(2016, 11, 25),
    datetime(2016, 11, 25, 10, 0, 0),
    datetime(2016, 11, 25, 10, 0, 30),
    datetime(2016, 11, 26),
    datetime(2017, 1, 1),
    None,
    NOW,
    NOW - timedelta(days=3),
    NOW - timedelta(days=30),
]
FORMATS = ["JPEG", "PNG", "HEIF", None]
HALF = timedelta(milliseconds=500)


def mtime_of(number: int) -> datetime:
    """Half a second after the picture was taken, to the microsecond."""
    return (TAKEN[number] or datetime(2016, 11, 25)) + HALF


ROWS: list[dict[str, Any]] = [
    {
        "id": number,
        "path": f"/photos/{number}.jpg",
        "content_hash": f"{number:032x}",
        "size": 1_000_000 * number,
        "mtime": mtime_of(number),
        "width": 100 * number,
        "height": 50 + number,
        "format": FORMATS[number % 4],
        "taken": taken,
        "camera": "Fuji X100" if number % 3 else None,
        "latitude": 4.5 * number if number % 5 else None,
        "longitude": -4.5 * number if number % 5 else None,
        "corpus": "/photos",
        "damage": "damaged EXIF" if number % 4 == 1 else None,
        "modality": "text" if number % 7 == 1 else "image",
        "text": f"passage {number}" if number % 7 == 1 else None,
        "caption": f"caption {number}" if number % 2 else None,
        "rating": number % 6 if number % 5 else None,
        "keywords": ["sea", str(number)] if number % 3 else None,
    }
    for number, taken in enumerate(TAKEN)
]


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Filter:
    folder = tmp_path_factory.mktemp("comparison") / "i"
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        rows = [
            Row(
                **{name: value for name, value in row.items() if name != "mtime"},
                mtime_ns=int(np.datetime64(row["mtime"], "ns").astype(np.int64)),
            )
            for row in ROWS
        ]
        writer.commit(rows, vectors(*range(len(rows))))
    return Filter(Snapshot(folder))


def taken(test: Callable[[datetime], bool]) -> Callable[[dict[str, Any]], bool]:
    return lambda row: row["taken"] is not None and test(row["taken"])


def place(test: Callable[[float], bool]) -> Callable[[dict[str, Any]], bool]:
    return lambda row: row["latitude"] is not None and test(row["latitude"])


TODAY = NOW.date()
MEANT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "damage LIKE '%EXIF'": lambda row: row["damage"] is not None,
    "modality = 'text'": lambda row: row["modality"] == "text",
    "text LIKE 'passage%'": lambda row: row["text"] is not None,
    "caption = 'caption 3'": lambda row: row["caption"] == "caption 3",
    "rating >= 4": lambda row: row["rating"] is not None and row["rating"] >= 4,
    "rating > '3'": lambda row: row["rating"] is not None and row["rating"] > 3,
    "list_contains(keywords, 'sea')": lambda row: row["keywords"] is not None,
    "damage IS NULL": lambda row: row["damage"] is None,
    # A date in quotes is the whole year, month, day, hour, minute or second.
    "taken = '2016'": taken(lambda t: t.year == 2016),
    "taken != '2016'": taken(lambda t: t.year != 2016),
    "taken = '2016-11'": taken(lambda t: (t.year, t.month) == (2016, 11)),
    "taken >= '2016-11'": taken(lambda t: t >= datetime(2016, 11, 1)),
    "taken < '2016-11'": taken(lambda t: t < datetime(2016, 11, 1)),
    "taken <= '2016-03'": taken(lambda t: t < datetime(2016, 4, 1)),
    "taken BETWEEN '2016-01' AND '2016-03'": taken(lambda t: t.year == 2016 and t.month <= 3),
    "taken NOT BETWEEN '2016-01' AND '2016-03'": taken(lambda t: not (t.year == 2016 and t.month <= 3)),
    "taken IN ('2016-01', '2016-11-25')": taken(
        lambda t: (t.year, t.month) == (2016, 1) or t.date() == datetime(2016, 11, 25).date()
    ),
    "taken NOT IN ('2016', '2017')": taken(lambda t: t.year not in (2016, 2017)),
    "taken IN ['2016', '2017']": taken(lambda t: t.year in (2016, 2017)),
    "taken = '2016-11-25'": taken(lambda t: t.date() == datetime(2016, 11, 25).date()),
    "'2016-11-25' = taken": taken(lambda t: t.date() == datetime(2016, 11, 25).date()),
    "taken > '2016-11-25'": taken(lambda t: t > datetime(2016, 11, 25)),
    "'2016-11-25' < taken": taken(lambda t: t > datetime(2016, 11, 25)),
    "taken <= '2016-11-25'": taken(lambda t: t < datetime(2016, 11, 26)),
    "taken <= '2016/11/25'": taken(lambda t: t < datetime(2016, 11, 26)),
    "taken BETWEEN '2016-11-1' AND '2016-11-25'": taken(lambda t: datetime(2016, 11, 1) <= t < datetime(2016, 11, 26)),
    "taken = '2016-11-25T10'": taken(lambda t: (t.date(), t.hour) == (datetime(2016, 11, 25).date(), 10)),
    "taken = '2016-11-25 10:00'": taken(lambda t: datetime(2016, 11, 25, 10) <= t < datetime(2016, 11, 25, 10, 1)),
    "taken > '2016-11-25T10:00'": taken(lambda t: t > datetime(2016, 11, 25, 10)),
    "taken = '2016-11-25T10:00:30'": taken(lambda t: t == datetime(2016, 11, 25, 10, 0, 30)),
    "mtime = '2016-11-25T10:00:30'": lambda row: row["mtime"] - HALF == datetime(2016, 11, 25, 10, 0, 30),
    "mtime = '2016-11-25 10:00:30.5'": lambda row: row["mtime"] - HALF == datetime(2016, 11, 25, 10, 0, 30),
    "mtime >= '2016-11'": lambda row: row["mtime"] >= datetime(2016, 11, 1),
    "mtime = '2016-11-25T10:00Z'": lambda row: row["id"] in (8, 9),
    "mtime = '2016-11-25T12:30+02:30'": lambda row: row["id"] in (8, 9),
    "mtime = '2016-11-25 07:00-03'": lambda row: row["id"] in (8, 9),
    "coalesce(taken, mtime) = '2016-11-25'": lambda row: row["id"] in (7, 8, 9, 12),
    "taken::DATE = '2016-11'": taken(lambda t: (t.year, t.month) == (2016, 11)),
    "taken::DATE > '2016-11-25'": taken(lambda t: t >= datetime(2016, 11, 26)),
    "date_trunc('month', taken) = '2016-11'": taken(lambda t: (t.year, t.month) == (2016, 11)),
    "date_trunc('month', taken) = DATE '2016-11-01'": taken(lambda t: (t.year, t.month) == (2016, 11)),
    # A day is a whole day, an instant is an instant.
    "taken = DATE '2016-11-25'": taken(lambda t: t.date() == datetime(2016, 11, 25).date()),
    "make_date(2016, 11, 25) = taken": taken(lambda t: t.date() == datetime(2016, 11, 25).date()),
    "taken <= DATE '2016-11-25'": taken(lambda t: t < datetime(2016, 11, 26)),
    "taken > DATE '2016-11-25'": taken(lambda t: t > datetime(2016, 11, 25)),
    "taken IN (DATE '2016-11-25')": taken(lambda t: t.date() == datetime(2016, 11, 25).date()),
    "taken BETWEEN DATE '2016-11-01' AND DATE '2016-11-25'": taken(
        lambda t: datetime(2016, 11, 1) <= t < datetime(2016, 11, 26)
    ),
    "taken = TIMESTAMP '2016-11-25'": taken(lambda t: t == datetime(2016, 11, 25)),
    "mtime < taken + INTERVAL 1 SECOND": taken(lambda t: True),
    "mtime = taken": lambda row: False,
    "mtime - taken < INTERVAL 1 SECOND": taken(lambda t: True),
    # Text and numbers of a date.
    "taken LIKE '2016-11%'": taken(lambda t: str(t).startswith("2016-11")),
    "taken NOT LIKE '2016-11%'": taken(lambda t: not str(t).startswith("2016-11")),
    "starts_with(taken, '2016-11-25 10')": taken(lambda t: str(t).startswith("2016-11-25 10")),
    "left(taken, 7) IN ('2016-01', '2016-11')": taken(lambda t: str(t)[:7] in ("2016-01", "2016-11")),
    "strftime(taken, '%Y-%m') = '2016-11'": taken(lambda t: (t.year, t.month) == (2016, 11)),
    "year(taken) = 2016": taken(lambda t: t.year == 2016),
    "year(taken) = '2016'": taken(lambda t: t.year == 2016),
    "year(taken) > 2015 AND month(taken) = 11": taken(lambda t: t.year > 2015 and t.month == 11),
    "hour(taken) BETWEEN 10 AND 11": taken(lambda t: t.hour in (10, 11)),
    "dayname(taken) = 'Wednesday'": taken(lambda t: t.weekday() == 2),
    # Numbers.
    "width > '1000'": lambda row: row["width"] > 1000,
    "width >= '99.5'": lambda row: row["width"] >= 99.5,
    "width IN ('100', 200, '300.0')": lambda row: row["width"] in (100, 200, 300),
    "'1000' < width": lambda row: row["width"] > 1000,
    "size BETWEEN '1e6' AND 2_000_000": lambda row: 1e6 <= row["size"] <= 2e6,
    "size > 1.5e6": lambda row: row["size"] > 1.5e6,
    "id IN [7, 8] OR contains([9, 10], id)": lambda row: 7 <= row["id"] <= 10,
    "NOT list_contains([7, 8], id)": lambda row: row["id"] not in (7, 8),
    "id = '7'": lambda row: row["id"] == 7,
    "content_hash LIKE 5": lambda row: False,
    "path LIKE width": lambda row: False,
    "width IS DISTINCT FROM '100'": lambda row: row["width"] != 100,
    "height LIKE '5%'": lambda row: str(row["height"]).startswith("5"),
    "latitude > '13.4'": place(lambda latitude: latitude > 13.4),
    "longitude < -13": place(lambda latitude: latitude > 13),
    # Text.
    "format = 'jpeg' OR format = 'heic'": lambda row: row["format"] in ("JPEG", "HEIF"),
    "format IN ('jpg', 'png')": lambda row: row["format"] in ("JPEG", "PNG"),
    "format != 'Jpg'": lambda row: row["format"] not in ("JPEG", None),
    "format == 'PNG' AND NOT camera <> 'Fuji X100'": lambda row: row["format"] == "PNG" and row["camera"] is not None,
    "camera = '5' OR content_hash = '5'": lambda row: False,
    "camera > 'Fuji'": lambda row: row["camera"] is not None,
    "path = '/photos/3.jpg' AND corpus = '/photos'": lambda row: row["id"] == 3,
    "camera IS NULL AND taken IS NOT NULL": lambda row: row["camera"] is None and row["taken"] is not None,
    "camera IS DISTINCT FROM NULL": lambda row: row["camera"] is not None,
    "coalesce(camera, 'x') = 'x'": lambda row: row["camera"] is None,
}


@pytest.mark.parametrize("where", MEANT)
def test_a_comparison_has_the_meaning_that_people_expect(conditions: Filter, where: str) -> None:
    assert conditions.ids(where).tolist() == [row["id"] for row in ROWS if MEANT[where](row)]


NOW_CONDITIONS: dict[str, Callable[[datetime], bool]] = {
    "taken > now() - INTERVAL 7 DAY": lambda t: t > NOW - timedelta(days=7),
    "taken > now() - INTERVAL '1 week'": lambda t: t > NOW - timedelta(days=7),
    "now() - INTERVAL 7 DAY < taken": lambda t: t > NOW - timedelta(days=7),
    "taken BETWEEN now() - INTERVAL 2 MONTH AND now()": lambda t: NOW - timedelta(days=59) < t <= NOW,
    "taken = today()": lambda t: t.date() == TODAY,
    "taken = current_date": lambda t: t.date() == TODAY,
    "taken <= current_date": lambda t: t.date() <= TODAY,
    "taken BETWEEN today() - 7 AND today()": lambda t: TODAY - timedelta(days=7) <= t.date() <= TODAY,
    "taken >= current_timestamp::TIMESTAMP - INTERVAL 100 HOUR": lambda t: t >= NOW - timedelta(hours=100),
    "taken > (now() AT TIME ZONE 'UTC') - INTERVAL 7 DAY": lambda t: t > NOW - timedelta(days=7),
    "date_diff('day', taken, now()::TIMESTAMP) = 3": lambda t: (TODAY - t.date()).days == 3,
}


@pytest.mark.skipif(NOW.hour == 23 and NOW.minute > 50, reason="today would be another day by the time of the query")
@pytest.mark.parametrize("where", NOW_CONDITIONS)
@pytest.mark.parametrize("column", ["taken", "mtime"])
def test_dates_count_from_now(conditions: Filter, where: str, column: str) -> None:
    """Rows at the turn of years and months are far from now unless the test runs at such a time."""
    known = {0, 1, 2, 3, 4, 13, 14, 15} - ({13} if column == "mtime" else set())
    found = known & set(conditions.ids(where.replace("taken", column)).tolist())
    assert found == {number for number in known if NOW_CONDITIONS[where](TAKEN[number] or NOW)}


REFUSED = {
    "damage = 3": "damage is text, but 3 is a number; write text in single quotes, as in damage = '3'",
    "taken > '2016-11'": "write taken >= '2016-11' to include it, or taken >= '2016-12' for what comes after it",
    "'2016' < mtime": "write mtime >= '2016' to include it, or mtime >= '2017' for",
    "taken >= 2016": "taken is a date, but 2016 is a number; write dates in single quotes, as in taken >= '2026-11-25'",
    "taken > 2016-11-25": "taken is a date, but 2016 - 11 - 25 is a number; write dates in single quotes",
    "2016-11-25 < mtime": "2016 - 11 - 25 is a number, but mtime is a date; write dates in single quotes, as in mtime",
    "taken = 20161125": "taken is a date, but 20161125 is a number",
    "taken IN (2015, 2016)": "taken is a date, but 2015 is a number",
    "taken BETWEEN 2015 AND 2016": "taken is a date, but 2015 is a number",
    "mtime > '7 days ago'": "'7 days ago' is not a date; .* as in mtime > now\\(\\) - INTERVAL 7 DAY",
    "mtime > 'yesterday'": "'yesterday' is not a date",
    "taken = '25.11.2016'": "'25.11.2016' is not a date; write year, month and day in this order",
    "taken < '11/25/2016'": "write year, month and day in this order",
    "taken = '20161125'": "is not a date",
    "taken = '2016-02-30'": "'2016-02-30' is not a date",
    "taken = '2016-11-25 25:00'": "is not a date",
    "taken = ''": "'' is not a date",
    "taken = 'it''s'": "'it''s' is not a date",
    "taken > '2016-11-25T10:00Z'": "camera's local time, which has no time zone; leave it out of '2016-11-25T10:00Z'",
    "mtime > now() - 7": "write a span of time as in now\\(\\) - INTERVAL 7 DAY",
    "mtime > now() - '7 days'": "write a span of time as in now\\(\\) - INTERVAL 7 DAY",
    "mtime > INTERVAL 7 DAY": "as in mtime > now\\(\\) - INTERVAL 7 DAY",
    "mtime - taken > 5": "mtime - taken is a span of time, but 5 is a number",
    "taken IS NOT DISTINCT FROM '2016-11-25'": "write taken = '2016-11-25' instead",
    "camera IS DISTINCT FROM 5": "camera is text, but 5 is a number",
    "taken > true": "taken is a date, but true is true or false",
    "taken = camera": "taken is a date, but camera is text",
    "width > DATE '2016-01-01'": "width is a number, but '2016-01-01' is a date\\.$",
    "size > taken": "size is a number, but taken is a date",
    "size > '10MB'": "size is a number, but '10MB' is text; .* as in size > 10000000, in bytes",
    "width BETWEEN 100 AND '1000px'": "width is a number, but '1000px' is text; .* as in width > 1000",
    "latitude > '48,1'": "as in latitude > 48.1",
    "id = 'x'": "id is a number, but 'x' is text",
    "year(taken) = 'this year'": "year\\(taken\\) is a number, but 'this year' is text",
    "width = true": "width is a number, but true is true or false",
    "height = camera": "height is a number, but camera is text",
    "format = 5": "format is text, but 5 is a number; write text in single quotes, as in format = '5'",
    "7 = content_hash": "7 is a number, but content_hash is text; .* as in content_hash = '7'",
    "path > 3": "path is text",
    "corpus IN (1, 2)": "corpus is text",
    "camera = DATE '2016-11-25'": "camera is text, but '2016-11-25' is a date\\.$",
    "camera = NULL": "A comparison with NULL is never true; write camera IS NULL or camera IS NOT NULL",
    "NULL != taken": "write taken IS NULL or taken IS NOT NULL",
    "width NOT IN (100, NULL)": "write width IS NULL or",
    "longitude BETWEEN NULL AND 5": "write longitude IS NULL",
    "format = 'PNG' OR 'JPEG'": "'JPEG' alone is not a valid condition, because it is text; .* as in format IN",
    "width = 100 OR 200": "200 alone is not a valid condition",
    "NOT width": "width alone is not a valid condition, because it is a number",
    "taken": "taken alone is not a valid condition, because it is a date",
    'format = "JPEG"': "a column 'JPEG' that does not exist; .* text is written in single quotes",
    "format = 'JPEG' AND (width > 3) && (height > 3)": "cannot use &&; write AND between conditions",
    "(width > 3) || (height > 3)": "cannot use \\|\\|; write OR",
    "!(width > 3)": "cannot use !; write NOT",
    "width => 3": "cannot use =>; write >=",
    "width > 1,000": "write numbers without commas",
}


@pytest.mark.parametrize("where", REFUSED)
def test_what_cannot_be_meant_says_how_to_write_it(conditions: Filter, where: str) -> None:
    with pytest.raises(QueryError, match=REFUSED[where]) as caught:
        conditions.ids(where)
    assert "\n" not in str(caught.value)


def test_every_column_is_compared_with_each_kind() -> None:
    conditions = " ".join([*MEANT, *REFUSED])
    assert [name for name in (*FIXED, "mtime") if name not in conditions] == []


@settings(max_examples=150, deadline=None)
@given(
    moment=st.sampled_from([each for each in TAKEN if each]) | st.datetimes(datetime(2015, 1, 1), datetime(2017, 6, 1)),
    precision=st.integers(0, 5),
    operator=st.sampled_from(["=", "!=", "<", "<=", ">=", ">"]),
)
def test_a_date_is_the_period_of_its_last_part(
    conditions: Filter, moment: datetime, precision: int, operator: str
) -> None:
    layout, units = ("%Y", "-%m", "-%d", "T%H", ":%M", ":%S"), moment.timetuple()[:6]
    start = datetime(*(*units[: precision + 1], *(0, 1, 1, 0, 0, 0)[precision + 1 :]))  # type: ignore[arg-type]
    text = moment.strftime("".join(layout[: precision + 1]))
    known = {row["id"]: row["taken"] for row in ROWS if row["taken"]}
    same = [number for number, t in known.items() if t.timetuple()[: precision + 1] == units[: precision + 1]]
    below = [number for number, t in known.items() if t < start]
    above = [number for number in known if number not in (*same, *below)]
    where = f"taken {operator} '{text}'"
    if operator == ">" and precision < 2:
        with pytest.raises(QueryError, match="does not say whether"):
            conditions.ids(where)
        return
    expected = {
        "=": same,
        "!=": below + above,
        "<": below,
        "<=": below + same,
        ">=": same + above,
        ">": [number for number in same + above if known[number] != start],  # as in SQL, after the first instant
    }
    assert conditions.ids(where).tolist() == sorted(expected[operator])


def test_columns_of_corpora_are_written_as_they_are_named() -> None:
    """A condition that is changed is written anew by DuckDB, with odd names in quotes."""
    kinds: dict[str, Kind] = {"order date": "time", "it's": "number", "select": "day"}
    where = """ "Order Date" = '2016' AND "it's" > '1.5' AND "select" < '2017' """
    with duckdb.connect() as connection:
        read = read_condition(connection, where, kinds)
        assert read.columns == {"Order Date", "it's", "select"}
        assert read_condition(connection, '"Order Date" < CURRENT_DATE', kinds).columns == {"Order Date"}
        connection.execute("""CREATE TABLE t ("Order Date" TIMESTAMP, "it's" DOUBLE, "select" DATE)""")
        connection.execute("INSERT INTO t VALUES ('2016-05-05', 2, '2016-12-31'), ('2015-05-05', 2, '2016-12-31')")
        assert connection.execute(f"SELECT count(*) FROM t WHERE {read.sql}").fetchone() == (1,)


@pytest.mark.parametrize("text", ["''); DROP TABLE t; --", "\\", "%'' OR 1=1", 'a"b', "é€😀"])
def test_text_stays_text_in_a_condition_that_is_written_anew(conditions: Filter, text: str) -> None:
    assert conditions.ids(f"camera = '{text}' OR taken = '2016-11-25'").tolist() == [7, 8, 9]


def test_comparisons_within_each_other_do_not_double_at_each_level(conditions: Filter) -> None:
    where = "width"
    for _ in range(60):
        where = f"({where} BETWEEN '0.5' AND 9)::INT"
    with pytest.raises(QueryError, match="too long to be compared"):
        conditions.ids(f"{where} = 1")
