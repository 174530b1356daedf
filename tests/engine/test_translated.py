"""Conditions as engines are asked them: random filters against DuckDB's answers, and what is refused."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from llm2clip_search.engine.translated import Translator
from llm2clip_search.errors import ConditionError
from llm2clip_search.vectorindex.conditions import (
    EVERY_ROW,
    NO_ROW,
    AllOf,
    AnyOf,
    Compared,
    Comparison,
    Condition,
    Containing,
    Listing,
    Null,
    OneOf,
    UntranslatableError,
)
from tests.support.condition_engines import Case, check
from tests.support.odd_rows import ODD_NAME

_NUMBERS = st.sampled_from(
    [
        *("0", "1", "-1", "5", "100", "127", "128", "-129", "1000", "999.5", "1000.0", "1e3", "0.1", "1.5", "0.1e0"),
        *("9007199254740992", "9007199254740993", "9007199254740993e0", "9.007199254740994e15", "-9007199254740993"),
        *("9223372036854775807", "-9223372036854775808", "99999999999999999999", "1e300", "-1e300", "1e-320", "48.14"),
        *("'5'", "'1000.5'", "CAST(0.1 AS REAL)", "CAST(16777217 AS REAL)", "CAST('nan' AS DOUBLE)", "2 * 3 - 1"),
        *("CAST('inf' AS DOUBLE)", "-CAST('inf' AS REAL)", "CAST(NULL AS INTEGER)", "nullif(1, 1)", "pi()"),
        *("CAST(1000 AS DECIMAL)", "CAST(5 AS HUGEINT)", "48.1400000000000000000001", "CAST(0 AS TINYINT)"),
    ]
)
_TEXTS = st.sampled_from(
    ["", "a", "A", "ab", "abc", "Canon", "it's", 'a"b', "a\\b", "a%b", "50%", "é", "😀", "\uffff"]
).map(lambda text: "'" + text.replace("'", "''") + "'")
_TEXTS |= st.sampled_from(["'a\nb'", "'NaN'", "'\udce9'", "lower('ABC')", "CAST(NULL AS VARCHAR)", "'JPEG'", "'2024'"])
_PATTERNS = st.sampled_from(
    ["abc", "a%", "%", "%%", "", "%a", "%a%", "A%", "a\\%", "50!%", "😀%", "%b", "a!%%", "it''s"]
)
_DAYS = ["'2024'", "'2024-05'", "'2024-05-17'", "'2024-05-17 10:30'", "'2024-05-17T10:30:00.000001'", "'9999-12-31'"]
_TIMES = st.sampled_from(
    [
        *_DAYS,
        *("'0001-01-01'", "'1969'", "current_date", "now()", "now() - INTERVAL 7 DAY", "DATE '2024-05-17'"),
        *("TIMESTAMP '2024-05-17 10:30:00.0000005'", "TIMESTAMP '2024-02-29 12:00:00.5'", "TIMESTAMP 'infinity'"),
        *("TIMESTAMPTZ '2024-05-17 12:30:00+02:00'", "CAST(NULL AS TIMESTAMP)", "date_trunc('year', now())"),
        *("TIMESTAMP '-infinity'", "DATE '12000-01-01'", "TIMESTAMP '2024-05-17'"),
    ]
)
_ODD = '"' + ODD_NAME.replace('"', '""') + '"'
_KINDS = [
    (st.sampled_from(["id", "size", "width", "rating", "wide", "tiny", "counted", "images.width", _ODD]), _NUMBERS),
    (st.sampled_from(["latitude", "single", "longitude"]), _NUMBERS),
    (st.sampled_from(["camera", "format", "path", "modality", "CAMERA"]), _TEXTS),
    (st.sampled_from(["taken", "mtime", "noted", "zoned", "day", "CAST(taken AS DATE)", "noted::TIMESTAMP"]), _TIMES),
]
_HOW = st.sampled_from(["=", "!=", "<>", "<", "<=", ">", ">=", "=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])


@st.composite
def _leaves(draw: Callable[..., Any]) -> str:
    columns, constants = draw(st.sampled_from(_KINDS))
    column, one, two = draw(columns), draw(constants), draw(constants)
    several = ", ".join(draw(st.lists(constants, min_size=1, max_size=4)))
    text, pattern = draw(st.sampled_from(["camera", "path", "format"])), draw(_PATTERNS)
    item = draw(st.sampled_from(["'sea'", "'it''s'", "''", "CAST(NULL AS VARCHAR)"]))
    number = draw(st.sampled_from(["1", "5", "CAST(2 AS TINYINT)", "99999999999"]))
    listed = draw(st.sampled_from(["keywords", "numbers"]))
    of_list = item if listed == "keywords" else number
    function = draw(st.sampled_from(["starts_with", "prefix", "ends_with", "suffix", "contains"]))
    east = draw(st.sampled_from([-160, 180]))
    folder = draw(st.sampled_from(["'/x'", "'/x/'", "'/x/0.jpg'", "'/'", "'s3://bucket'", "CAST(NULL AS VARCHAR)"]))
    return str(
        draw(
            st.sampled_from(
                [
                    *([f"{column} {draw(_HOW)} {one}"] * 6),
                    *([f"{one} {draw(_HOW)} {column}"] * 2),
                    f"{column} BETWEEN {one} AND {two}",
                    f"{column} NOT BETWEEN {one} AND {two}",
                    *([f"{column} IN ({several})", f"{column} NOT IN ({several})"] * 2),
                    f"{column} IN [{several}]",
                    f"{one} BETWEEN {column} AND {two}",
                    f"{text} LIKE '{pattern}'",
                    f"{text} NOT LIKE '{pattern}'",
                    f"{text} LIKE '{pattern}' ESCAPE '!'",
                    f"{text} NOT LIKE '{pattern}' ESCAPE '!'",
                    f"{function}({text}, {draw(_TEXTS)})",
                    f"is_under(path, {folder})",
                    f"is_within(latitude, longitude, {draw(st.integers(-90, 50))}, 170, 1e300, {east})",
                    f"list_contains({listed}, {of_list})",
                    f"array_contains({listed}, {of_list})",
                    f"list_has_any({listed}, [{of_list}, {of_list}])",
                    f"list_has_all({listed}, [{of_list}])",
                    f"{draw(st.sampled_from(['keywords', 'price', 'clock', 'camera', 'single', column]))} IS NULL",
                    f"{draw(st.sampled_from(['keywords', 'price', 'clock', 'flag', 'id', column]))} IS NOT NULL",
                    *("flag", "flag = false", "flag IS NOT TRUE", "flag != true", "flag IS DISTINCT FROM true"),
                    *("true", "1 = 0", "CAST(NULL AS BOOLEAN)", "5 IN (1, 5)", "'a' LIKE 'a%'", "flag IN (true)"),
                ]
            )
        )
    )


def _wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joined = st.builds(
        lambda word, parts: f"({word.join(parts)})",
        st.sampled_from([" AND ", " OR "]),
        st.lists(inner, min_size=2, max_size=4),
    )
    changed = st.builds(
        lambda form, part: form.format(part),
        st.sampled_from(
            [
                "NOT ({})",
                "NOT {}",
                "({}) IS TRUE",
                "({}) IS NOT TRUE",
                "({}) IS FALSE",
                "({}) IS NULL",
                "({}) = false",
                "({}) IS DISTINCT FROM true",
            ]
        ),
        inner.map(lambda part: f"({part})"),
    )
    return joined | changed


_WIDE_AND_DEEP = (" OR ".join(f"tiny > {number}" for number in range(20)) + " OR (flag AND (") * 9
_WIDE_AND_DEEP += "width > 5" + "))" * 9
FILTERS = st.recursive(_leaves(), _wider, max_leaves=6)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("odd"))


QUICK = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@given(where=FILTERS)
@QUICK
def test_engines_find_the_rows_that_duckdb_finds(case: Case, where: str) -> None:
    for outcome in check(case, where):
        event(outcome)  # --hypothesis-show-statistics counts them


@pytest.mark.slow
@pytest.mark.parametrize("is_indexed", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_engines_find_the_rows_that_duckdb_finds_in_other_tables(tmp_path: Path, seed: int, is_indexed: bool) -> None:
    other = Case(tmp_path, seed, is_indexed=is_indexed)

    @given(where=FILTERS)
    @settings(QUICK, max_examples=1500)
    def run(where: str) -> None:
        check(other, where)

    run()


@pytest.mark.parametrize(
    "where",
    [
        "width BETWEEN 5 AND 1000 AND NOT (camera LIKE 'a%' OR rating IN (0, 3))",
        "latitude IN [CAST(0.1 AS REAL), 48.1400000000000000000001] OR latitude IN (CAST(0.1 AS REAL), 1.5)",
        "size BETWEEN -1e300 AND 9007199254740992 OR 9007199254740993e0 BETWEEN wide AND size",
        "wide = 9007199254740993e0",  # as DOUBLE, two whole numbers are this one
        "tiny < 1000 AND tiny != 999.5",
        "single > 0.1e0 AND single != 0.1",
        "latitude >= CAST('nan' AS DOUBLE) OR latitude < -1e300",
        "zoned > TIMESTAMPTZ '2024-05-17 12:30:00+02:00'",
        "day = '2024-05' OR taken <= '2024-05-17' OR noted > now() - INTERVAL 700 DAY",
        "CAST(noted AS DATE) = DATE '2024-05-17'",
        "(width > 5) IS NOT TRUE AND (flag OR camera = 'A') IS NULL",
        "list_contains(keywords, 'it''s') OR NOT list_has_any(keywords, ['sea', NULL])",
        "keywords IS NOT NULL AND NOT list_has_all(numbers, [1, 2])",
        "is_under(path, '/x') AND NOT starts_with(path, '/x/1')",
        "NOT is_within(latitude, longitude, 40, 170, 60, -160)",
        f"{_ODD} IN (1, 5, 100) AND camera NOT LIKE '%a%'",
        "path LIKE '%\udce9.jpg' OR path LIKE '%/it''s \\%\\_.jpg' ESCAPE '\\'",
        "1 = 1",
        "width > 5 AND NULL",
        " OR ".join(f"(width = {number} AND wide != {number})" for number in range(100)),
        " AND ".join(["(flag OR (width > 5 "] * 9) + "))" * 9,
        (" OR ".join(f"tiny > {number}" for number in range(20)) + " OR (flag AND (") * 6 + "width > 5" + "))" * 6,
    ],
)
def test_what_conditions_say(case: Case, where: str) -> None:
    """Examples that random ones may miss; all engines but Qdrant at the end of a text have them."""
    check(case, where)
    assert case.engines["lance"](case.translator.translate(where)) == case.filter.ids(where).tolist()


def test_conditions_take_their_plainest_form(case: Case) -> None:
    def width(how: Comparison, value: int) -> Compared:
        return Compared(column="width", how=how, value=value)

    forms: dict[str, Condition] = {
        "width = 1 OR 2 = width OR width IN (3)": OneOf(column="width", values=(1, 2, 3)),
        "NOT (width = 1 OR width > 1000.5)": AllOf((width("!=", 1), width("<", 1001))),
        "width < 1e300": Null(column="width", negated=True),
        "width = 0.5": NO_ROW,
        "width IS DISTINCT FROM 5": AnyOf((width("!=", 5), Null(column="width"))),
        "camera LIKE 'a%' AND true": Containing(column="camera", text="a", at="start"),
        "format = 'jpg'": Compared(column="format", how="=", value="JPEG"),
        "list_contains(KEYWORDS, 'sea')": Listing(column="keywords", value="sea"),
        "taken > TIMESTAMP '2024-05-17 10:30:00.5'": Compared(
            column="taken", how=">=", value=datetime(2024, 5, 17, 10, 30, 1)
        ),
        "id IS NOT NULL OR 1 = 1": EVERY_ROW,
    }
    assert {where: case.translator.translate(where) for where in forms} == forms


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("lower(camera) = 'a'", r"lower\(camera\) has no counterpart"),
        ("camera ILIKE 'a%'", "ILIKE has no counterpart, because engines count case"),
        ("camera LIKE 'a_c'", "LIKE 'a_c' has no counterpart; engines know % only at the ends"),
        ("width > wide", "width compared with wide has no counterpart; engines compare one column with a constant"),
        ("width * 2 > 5", r"width \* 2 has no counterpart"),
        ("km_between(latitude, longitude, 48, 11) < 10", "km_between.* has no counterpart"),
        ("price > 1", r"price compared with 1 has no counterpart; their types are decimal128\(10, 2\)"),
        ("list_contains(numbers, 0.5)", "items that are text, whole numbers or truth values"),
        ("regexp_matches(path, 'a')", r"regexp_matches\(...\) has no counterpart"),
        (" AND ".join(["(flag OR (width > 5 "] * 14) + "))" * 14, "more than 20 levels of AND and OR"),
        ("(" * 12 + "width > 5" + ") IS NULL" * 12, "too many parts"),
    ],
)
def test_what_engines_lack_is_named(case: Case, where: str, reason: str) -> None:
    case.filter.ids(where)
    with pytest.raises(UntranslatableError, match=reason):
        case.translator.translate(where)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("", "The condition is empty"),
        ("breadth > 5", "names a column 'breadth' that does not exist; the columns are id, path"),
        ("width >", "is not a valid condition"),
        ("taken > 2024", "taken is a date, but 2024 is a number"),
        ("camera = NULL", "A comparison with NULL is never true"),
        ("id IN (SELECT 1)", "cannot contain a subquery"),
        ("width > CAST('x' AS INTEGER)", "Could not convert string 'x'"),
        ("wide = 5" + " OR wide = 5" * 400, "bytes long"),
    ],
)
def test_a_wrong_condition_is_refused_as_by_the_index(case: Case, where: str, reason: str) -> None:
    with pytest.raises(ConditionError, match=reason) as refused:
        case.translator.translate(where)
    with pytest.raises(ConditionError) as expected:
        case.filter.ids(where)
    assert str(refused.value).partition("columns are")[0] == str(expected.value).partition("columns are")[0]


@pytest.mark.parametrize(
    ("where", "engine", "reason"),
    [
        ("camera > 'a'", "core", "Qdrant does not order text, such as camera"),
        ("camera LIKE '%a'", "core", "Qdrant cannot search for text at the end of camera"),
        ("wide > 9007199254740993", "client", "does not order whole numbers as large as 9007199254740993 in wide"),
        (_WIDE_AND_DEEP, "lance", "LanceDB takes conditions of at most 20 levels of parentheses"),
        ("counted = 1", "core", "counted holds unsigned whole numbers of 64 bits, which Qdrant lacks"),
    ],
)
def test_what_one_engine_lacks_is_named(case: Case, where: str, engine: str, reason: str) -> None:
    condition = case.translator.translate(where)
    with pytest.raises(UntranslatableError, match=reason):
        case.engines[engine](condition)
    other = "core" if engine == "lance" else "lance"
    assert case.engines[other](condition) == case.filter.ids(where).tolist()


@pytest.mark.parametrize("where", ["camera LIKE 'ab' ESCAPE 'ab'", "camera LIKE 'a%!' ESCAPE '!'"])
def test_an_escape_that_rows_would_be_refused_for_is_refused(case: Case, where: str) -> None:
    with pytest.raises(UntranslatableError, match="cannot be evaluated"):
        case.translator.translate(where)
    with pytest.raises(ConditionError):
        case.filter.ids(where)


def test_columns_of_other_indices_are_null() -> None:
    translator = Translator({"id": pa.int64(), "width": pa.int32()}, absent={"stars": pa.int32(), "width": pa.string()})
    wide = Compared(column="width", how=">", value=5)
    forms = {
        "stars > 3": NO_ROW,
        "NOT (stars > 3) OR width > 5": wide,
        "stars IS NULL AND width > 5": wide,
        "stars IS NOT NULL": NO_ROW,
        "(stars IN (1, 2)) IS NOT TRUE": EVERY_ROW,
    }
    assert {where: translator.translate(where) for where in forms} == forms


def test_conditions_that_ask_for_the_time_are_read_anew(case: Case) -> None:
    for where in ("noted > now()", "noted > now() - INTERVAL 7 DAY", "noted > CURRENT_TIMESTAMP"):
        first = case.translator.translate(where)
        time.sleep(0.001)
        assert case.translator.translate(where) != first
    assert case.translator.translate("width = 5") is case.translator.translate("width = 5")


def test_threads_share_a_translator(case: Case) -> None:
    wheres = [f"width > {number} AND taken < '2024-05-17' AND tiny != 0.5e0" for number in range(12)]
    expected = [case.translator.translate(where) for where in wheres]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(case.translator.translate, wheres)) == expected


def test_a_condition_has_a_time_limit(case: Case) -> None:
    with pytest.raises(ConditionError, match="took longer than"):
        Translator(case.types, time_limit_s=0.0).translate(" OR ".join(f"width > {n} * 2" for n in range(200)))
