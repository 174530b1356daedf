"""Values survive the way to an engine and back."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from math import inf, nan
from typing import Any

import pyarrow as pa
import pytest

from llm2clip_search.vectorindex.serving.payload import (
    decoded,
    digest_of,
    encoded,
    field_kind,
    indexed_columns,
    payload_of,
    qdrant_key,
    row_of,
    stored_name,
)

SCHEMA = pa.schema(
    [
        ("text column", pa.string()),
        ("a.b", pa.int64()),
        ("flag", pa.bool_()),
        ("number", pa.float64()),
        ("second", pa.timestamp("s")),
        ("zoned", pa.timestamp("us", "Europe/Berlin")),
        ("day", pa.date32()),
        ("clock", pa.time64("us")),
        ("span", pa.duration("us")),
        ("price", pa.decimal128(9, 2)),
        ("many", pa.list_(pa.timestamp("s"))),
        ("nothing", pa.string()),
    ]
)
ROW: dict[str, Any] = {
    "text column": "a\0b 'c' \"d\" \\ 😀",
    "a.b": 2**62 + 1,
    "flag": False,
    "number": -0.1,
    "second": datetime(1969, 7, 20, 20, 17, 40),
    "zoned": datetime(2024, 5, 17, 12, 30, 0, 7, tzinfo=UTC),
    "day": date(2024, 2, 29),
    "clock": time(23, 59, 59, 999_999),
    "span": timedelta(days=-1, microseconds=3),
    "price": Decimal("12345.60"),
    "many": [datetime(2000, 1, 1), None],
    "nothing": None,
}


def test_a_row_comes_back_as_arrow_has_it() -> None:
    [row] = pa.Table.from_pylist([ROW], schema=SCHEMA).to_pylist()
    payload = payload_of(row)
    assert row_of(payload, SCHEMA) == row
    assert "nothing" not in payload
    assert payload["second"] == "1969-07-20T20:17:40.000000Z"
    assert payload["zoned"] == "2024-05-17T12:30:00.000007Z"
    assert payload["day"] == "2024-02-29T00:00:00.000000Z"


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_numbers_that_json_lacks_are_text(value: float) -> None:
    written = encoded(value)
    assert written == {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    assert repr(decoded(written, pa.float32())) == repr(value)


def test_names_with_a_meaning_in_paths_are_escaped_and_stay_different() -> None:
    names = ["a.b", "a%2Eb", "a`b", 'a"b', "a\\b", "a\nb", "größe [cm]", "ab"]
    stored = [stored_name(name) for name in names]
    assert len(set(stored)) == len(names)
    assert not any(character in name for name in stored for character in '."`\\\n')
    assert stored[-2:] == names[-2:]
    assert qdrant_key("größe [cm]") == '"größe [cm]"'


def test_a_digest_changes_with_any_value_and_not_with_the_order() -> None:
    one = payload_of({"a": 1, "b": "x"})
    assert digest_of(one) == digest_of(dict(reversed(one.items())))
    others: list[dict[str, Any]] = [
        {"a": 2, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 1},
        {"a": True, "b": "x"},
        {"a": "1", "b": "x"},
    ]
    assert len({digest_of(payload_of(each)) for each in others} | {digest_of(one)}) == len(others) + 1


def test_columns_get_the_index_of_their_values() -> None:
    kinds = indexed_columns(SCHEMA)
    assert kinds["text column"] == "keyword"
    assert kinds["a.b"] == "integer"
    assert kinds["many"] == "datetime"
    assert {"clock", "span", "price"}.isdisjoint(kinds)
    assert field_kind(pa.uint64()) is None
    assert indexed_columns(pa.schema([("caption", pa.string()), ("camera", pa.string())])) == {"camera": "keyword"}
