"""Conditions of a form: the rows that they mean, the SQL that says so, and the way back."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.engine import Condition, SearchIndex
from llm2clip_search.errors import ConditionError
from llm2clip_search.store import Row
from tests.support.photos import photos, rows_of

ROWS = rows_of(60, seed=3)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return photos(tmp_path_factory.mktemp("form") / "i", ROWS)


def haversine(latitude: float, longitude: float, other: tuple[float, float]) -> float:
    """Kilometres on a sphere, by the vectors from its middle."""
    one, two = (
        (math.cos(a) * math.cos(b), math.cos(a) * math.sin(b), math.sin(a))
        for a, b in ((math.radians(x), math.radians(y)) for x, y in ((latitude, longitude), other))
    )
    return 6371.0088 * math.acos(max(-1.0, min(1.0, sum(a * b for a, b in zip(one, two, strict=True)))))


def met(condition: Condition, row: Row) -> bool:
    """What a person means by a condition, in Python."""
    value: Any = condition.value
    if condition.column == "place":
        if row.latitude is None or row.longitude is None:
            return False
        if condition.op == "near":
            distance = haversine(row.latitude, row.longitude, (value["latitude"], value["longitude"]))
            return bool(distance <= value["km"])
        is_between = value["west"] <= row.longitude <= value["east"]
        if value["west"] > value["east"]:
            is_between = row.longitude >= value["west"] or row.longitude <= value["east"]
        return bool(value["south"] <= row.latitude <= value["north"] and is_between)
    own = getattr(row, condition.column)
    if condition.op in ("is_null", "is_not_null"):
        return (own is None) == (condition.op == "is_null")
    if own is None:
        return False
    rules: dict[str, Callable[[], bool]] = {
        "=": lambda: own == value,
        "!=": lambda: own != value,
        "<": lambda: own < value,
        "<=": lambda: own <= value,
        ">": lambda: own > value,
        ">=": lambda: own >= value,
        "in": lambda: own in value,
        "not_in": lambda: own not in value,
        "between": lambda: value[0] <= own <= value[1],
        "contains": lambda: value.lower() in own.lower(),
        "not_contains": lambda: value.lower() not in own.lower(),
        "starts_with": lambda: own.lower().startswith(value.lower()),
        "ends_with": lambda: own.lower().endswith(value.lower()),
        "has": lambda: value in own,
    }
    return rules[condition.op]()


cameras = st.sampled_from(["Fuji X-T5", "Canon 50%_\\", "it's a Nikon"]) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs", "Co"]), min_size=1, max_size=8
)
pieces = st.sampled_from(["fuji", "50%", "_", "\\", "'s", "T5", "%", "n"])
numbers = st.integers(-(2**40), 2**40) | st.floats(-1e9, 1e9)
compared = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
conditions = st.one_of(
    st.builds(lambda op, value: Condition(column="camera", op=op, value=value), compared, cameras),
    st.builds(lambda op, value: Condition(column="width", op=op, value=value), compared, numbers),
    st.builds(
        lambda op, values: Condition(column="rating", op=op, value=values),
        st.sampled_from(["in", "not_in"]),
        st.lists(st.integers(-1, 5), min_size=1, max_size=4),
    ),
    st.builds(
        lambda low, high: Condition(column="size", op="between", value=[low, high]),
        st.integers(0, 10**6),
        st.integers(0, 10**7),
    ),
    st.builds(
        lambda op, value: Condition(column="camera", op=op, value=value),
        st.sampled_from(["contains", "not_contains", "starts_with", "ends_with"]),
        pieces,
    ),
    st.builds(lambda n: Condition(column="keywords", op="has", value=f"word {n}"), st.integers(0, 9)),
    st.builds(
        lambda column, op: Condition(column=column, op=op),
        st.sampled_from(["taken", "camera", "latitude", "keywords", "rating"]),
        st.sampled_from(["is_null", "is_not_null"]),
    ),
    st.builds(
        lambda y, x, km: Condition(column="place", op="near", value={"latitude": y, "longitude": x, "km": km}),
        st.floats(-90, 90),
        st.floats(-180, 180),
        st.floats(1, 15_000),
    ),
    st.builds(
        lambda ends, west, east: Condition(
            column="place", op="within", value={"south": min(ends), "west": west, "north": max(ends), "east": east}
        ),
        st.tuples(st.floats(-90, 90), st.floats(-90, 90)),
        st.floats(-180, 180),
        st.floats(-180, 180),
    ),
)


@settings(max_examples=150, deadline=None)
@given(form=st.lists(conditions, min_size=1, max_size=4))
def test_a_form_means_what_it_says_and_comes_back_from_its_sql(index: SearchIndex, form: list[Condition]) -> None:
    where = index.where(form)
    assert index.conditions(where) == form
    expected = [row.id for row in ROWS if all(met(each, row) for each in form)]
    found = index.matches(where)
    assert found is not None
    assert found.tolist() == expected


def test_dates_are_periods_and_folders_hold_all_below_them(index: SearchIndex) -> None:
    form = [Condition(column="taken", op="=", value="2020-11")]
    of_month = [row.id for row in ROWS if row.taken is not None and (row.taken.year, row.taken.month) == (2020, 11)]
    assert index.count(index.where(form)) == len(of_month)
    folder = str(index.snapshot.base / "photos" / "2021")
    for name in (folder, f"{folder}/"):
        under = [Condition(column="path", op="under", value=name)]
        assert index.conditions(index.where(under)) == under
        assert index.count(index.where(under)) == sum("/2021/" in row.path for row in ROWS)
    assert index.count(index.where([Condition(column="path", op="under", value=folder[:-1])])) == 0


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("1000 < WIDTH", [Condition(column="width", op=">", value=1000)]),
        ("NOT camera IN ('a')", [Condition(column="camera", op="not_in", value=["a"])]),
        ("format = 'PNG' OR format = 'JPEG'", [Condition(column="format", op="in", value=["PNG", "JPEG"])]),
        ("NOT (camera ILIKE '%a%')", [Condition(column="camera", op="not_contains", value="a")]),
        ("images.size >= 1.5e3", [Condition(column="size", op=">=", value=1500.0)]),
        ("NOT (camera IS NULL)", [Condition(column="camera", op="is_not_null")]),
        (
            "(width > 1) AND ((height < 9)) -- comment",
            [Condition(column="width", op=">", value=1), Condition(column="height", op="<", value=9)],
        ),
        ("width > height", None),
        ("width > 1 OR height > 1", None),
        ("camera LIKE '%a%'", None),
        ("camera ILIKE 'a%b%'", None),
        ("year(taken) = 2020", None),
        ("width > '1000'", None),
        ("NOT (width > 1000)", None),
        ("taken > now() - INTERVAL 7 DAY", None),
    ],
)
def test_sql_is_shown_as_a_form_where_one_says_the_same(
    index: SearchIndex, where: str, expected: list[Condition] | None
) -> None:
    assert index.conditions(where) == expected
    if expected is not None:
        assert index.count(where) == index.count(index.where(expected))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Condition(column="breadth", op="=", value=1), "Condition 2: There is no column 'breadth'"),
        (Condition(column="width", op="=", value="1"), "Condition 2: The value is a number, not '1'"),
        (Condition(column="width", op="=", value=True), "a number, not True"),
        (Condition(column="width", op="=", value=math.inf), "not a finite number"),
        (Condition(column="width", op="contains", value="1"), "not by contains"),
        (Condition(column="camera", op="contains", value=""), "is empty"),
        (Condition(column="camera", op="=", value="a\0b"), "null character"),
        (Condition(column="camera", op="is_null", value="x"), "takes no value"),
        (Condition(column="camera", op="in", value=[]), "a list of at least one"),
        (Condition(column="width", op="between", value=[1]), "a list of two"),
        (Condition(column="taken", op=">", value="soon"), "not a date"),
        (Condition(column="taken", op=">", value="2026"), "does not say whether"),
        (Condition(column="place", op="near", value={"latitude": 1}), "consists of latitude, longitude, km"),
        (Condition(column="place", op="near", value={"latitude": 91, "longitude": 0, "km": 1}), "between -90 and 90"),
        (Condition(column="place", op="near", value={"latitude": 1, "longitude": 0, "km": 0}), "above 0"),
        (
            Condition(column="place", op="within", value={"south": 2, "west": 0, "north": 1, "east": 0}),
            "north of north",
        ),
        (Condition(column="camera", op="like", value="x"), "'like' is not an operation"),  # type: ignore[arg-type]
        (Condition(column="camera", op="=", value="x" * 5000), "bytes long"),
    ],
)
def test_what_does_not_fit_is_refused_by_number(index: SearchIndex, condition: Condition, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        index.where([Condition(column="width", op=">", value=0), condition])


def test_functions_of_places_take_no_expressions(index: SearchIndex) -> None:
    """They would be written out within each other."""
    for where in (
        "km_between(latitude + 1, longitude, 1, 2) < 3",
        "is_within(latitude, longitude, 1, 2, 3, abs(4))",
        "is_under(path, lower(path))",
    ):
        with pytest.raises(ConditionError, match="takes columns and plain values only"):
            index.count(where)
