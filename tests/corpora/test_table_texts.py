"""CSV and JSON lines: types over the whole file, and rows that cannot be read."""

import csv
import gzip
import io
import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.corpora.files import LocalFiles
from llm2clip_search.corpora.table_files import Rows
from llm2clip_search.corpora.table_formats import open_table
from llm2clip_search.errors import CorpusError


def table(path: Path, content: str | bytes) -> tuple[dict[str, pa.DataType], list[dict[str, Any]], dict[int, str]]:
    """Types, rows and faults of a file with some content."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    read = open_table(LocalFiles(), str(path))
    schema = read.schema()
    blocks: list[Rows] = list(read.rows(schema.names, size=2))
    assert [block.first for block in blocks] == [2 * number for number in range(len(blocks))]
    faults = {row: reason for block in blocks for row, reason in block.faults.items()}
    rows = [row for block in blocks for row in block.batch.to_pylist()]
    return dict(zip(schema.names, schema.types, strict=True)), rows, faults


def types(path: Path, *cells: str) -> pa.DataType:
    """The type of a CSV column."""
    body = io.StringIO()
    csv.writer(body).writerows([["x", "other"], *([cell, "-"] for cell in cells)])
    return table(path, body.getvalue())[0]["x"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-20", ""], pa.int64()),
        (["1", "2.5", "NaN"], pa.float64()),
        (["1e3", ".5", "-2."], pa.float64()),
        (["007", "1"], pa.string()),
        (["123456789012345678901", "1"], pa.string()),
        (["12345678901234567", "0.5"], pa.string()),
        (["true", "FALSE", "null"], pa.bool_()),
        (["2024-02-29", ""], pa.date32()),
        (["2023-02-29"], pa.string()),
        (["2024-02-29", "2024-03-01 12:30"], pa.timestamp("us")),
        (["2024-02-29T01:02:03.25"], pa.timestamp("us")),
        (["", ""], pa.string()),
        (["NA", ""], pa.string()),
        (["1", "x"], pa.string()),
        (["+1"], pa.string()),
    ],
)
def test_a_csv_column_has_the_type_that_fits_all_its_cells(
    tmp_path: Path, cells: list[str], expected: pa.DataType
) -> None:
    assert types(tmp_path / "a.csv", *cells) == expected


def test_a_type_is_that_of_the_whole_file(tmp_path: Path) -> None:
    cells = [str(number) for number in range(10_000)]
    assert types(tmp_path / "a.csv", *cells) == pa.int64()
    assert types(tmp_path / "a.csv", *cells, "0.5") == pa.float64()
    assert types(tmp_path / "a.csv", *cells, "x") == pa.string()
    lines = [json.dumps({"n": number}) for number in range(10_000)]
    assert table(tmp_path / "a.jsonl", "\n".join(lines))[0] == {"n": pa.int64()}
    assert table(tmp_path / "a.jsonl", "\n".join([*lines, '{"n": 0.5}']))[0] == {"n": pa.float64()}


def test_values_of_csv(tmp_path: Path) -> None:
    text = 'a,b,c,d,e\r\n"x, ""y""\r\nz",1,2024-02-29,true,2024-01-02 03:04\r\n,NA,,,\r\n'
    found, rows, faults = table(tmp_path / "a.csv", text)
    assert list(found) == ["a", "b", "c", "d", "e"]
    first = {"a": 'x, "y"\r\nz', "b": 1, "c": date(2024, 2, 29), "d": True, "e": datetime(2024, 1, 2, 3, 4)}
    assert rows == [first, dict.fromkeys("abcde")]
    assert faults == {}


def test_rows_of_csv_that_cannot_be_read_fail_by_themselves(tmp_path: Path) -> None:
    text = b'a,b\n1,2\n1,2,3\n\n1\nx\xff,2\n"y"z,2\n4,5\n"open,6\n'
    _, rows, faults = table(tmp_path / "a.csv", text)
    assert [row for number, row in enumerate(rows) if number not in faults] == [{"a": 1, "b": 2}, {"a": 4, "b": 5}]
    assert faults == {
        1: "has 3 cells where the header has 2",
        2: "has 1 cells where the header has 2",
        3: "is not UTF-8",
        4: "is not CSV: ',' expected after '\"'",
        6: "is not CSV: unexpected end of data",
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbfa,b\n1,x\n"),
        ("a.csv", "a,b\n1,x\n".encode("utf-16")),
        ("a.csv", b"a;b\r\n1;x\r\n"),
        ("a.csv", b"a|b\n1|x"),
        ("a.csv", b" a , b\n1,x\n"),
        ("a.tsv", b"a\tb\n1\tx\n"),
        ("a.CSV.gz", gzip.compress(b"a,b\n1,x\n", mtime=0)),
        ("a.jsonl", b'{"a": 1, "b": "x"}'),
        ("a.ndjson", b'\xef\xbb\xbf{"a": 1, "b": "x"}\r\n\r\n'),
        ("a.jsonlines.gz", gzip.compress(b'\n{"a": 1, "b": "x"}\n', mtime=0)),
    ],
)
def test_ways_to_write_a_table(tmp_path: Path, name: str, content: bytes) -> None:
    found, rows, _ = table(tmp_path / name, content)
    assert found == {"a": pa.int64(), "b": pa.string()}
    assert rows == [{"a": 1, "b": "x"}]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, 2**62], pa.int64()),
        ([1, 2**63], pa.string()),
        ([1, 0.5], pa.float64()),
        ([2**60, 0.5], pa.string()),
        ([True, False], pa.bool_()),
        ([True, 1], pa.string()),
        (["a", 1], pa.string()),
        ([["a"], [], ["b", None]], pa.list_(pa.string())),
        ([[1, 2.5]], pa.list_(pa.float64())),
        ([[1], ["a"]], pa.string()),
        ([[[1]]], pa.string()),
        ([[1], 1], pa.string()),
        ([{"x": 1}, None], pa.string()),
        ([[]], pa.string()),
        ([None], pa.string()),
        ([float("nan"), 1.5], pa.float64()),
    ],
)
def test_a_json_column_has_the_type_that_holds_all_its_values(
    tmp_path: Path, values: list[Any], expected: pa.DataType
) -> None:
    lines = "\n".join(json.dumps({"x": value}) for value in values)
    found, rows, faults = table(tmp_path / "a.jsonl", lines)
    assert found == {"x": expected}
    assert faults == {}
    if expected == pa.string():
        assert [row["x"] if value is None or isinstance(value, str) else json.loads(row["x"])
                for row, value in zip(rows, values, strict=True)] == values  # fmt: skip
    else:
        assert repr([row["x"] for row in rows]) == repr(pa.array(values, expected).to_pylist())


def test_lines_with_other_keys_and_lines_that_are_not_objects(tmp_path: Path) -> None:
    lines = ['{"a": 1}', "{", '{"b": "x"}', "[1]", '{"a": "\\ud800"}', '{"a": ' + "[" * 100_000, '{"a": 2}']
    found, rows, faults = table(tmp_path / "a.jsonl", "\n".join(lines))
    assert found == {"a": pa.int64(), "b": pa.string()}
    assert [rows[0], rows[2], rows[6]] == [{"a": 1, "b": None}, {"a": None, "b": "x"}, {"a": 2, "b": None}]
    assert faults[1].startswith("is not JSON: Expecting property name")
    assert faults[3] == "is not a JSON object"
    assert faults[4] == "is not UTF-8"
    assert faults[5].startswith("is not read as JSON")


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "text": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
                "number": st.integers(-(2**53), 2**53) | st.none(),
                "tags": st.lists(st.text(st.characters(codec="utf-8"))),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_is_written_is_read(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tables")
    _, found, faults = table(folder / "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    wanted = [{**row, "tags": row["tags"] if any(each["tags"] for each in rows) else "[]"} for row in rows]
    assert (found, faults) == (wanted, {})
    body = io.StringIO()
    writer = csv.DictWriter(body, ["text", "number"], extrasaction="ignore", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    schema, read, faults = table(folder / "a.csv", body.getvalue())
    assert faults == {}
    if schema["text"] == pa.string():
        assert [row["text"] for row in read] == [row["text"] for row in rows]
    numbers = [row["number"] for row in rows]
    assert [row["number"] for row in read] == numbers or all(
        row["number"] in (None, str(number)) for row, number in zip(read, numbers, strict=True)
    )


def test_damaged_text_is_a_sentence(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"{number},x\n" for number in range(20_000)).encode())
    for content, reason in (
        (whole[: len(whole) // 2], "Compressed file ended before the end-of-stream marker was reached"),
        (whole[:200] + b"\xff" * 100 + whole[300:], "cannot be unpacked"),
        (b"text", "cannot be unpacked: Not a gzipped file"),
    ):
        with pytest.raises(CorpusError, match=reason):
            table(tmp_path / "a.csv.gz", content)
    with pytest.raises(CorpusError, match=r"The header of .*a\.csv is not CSV"):
        table(tmp_path / "a.csv", '"a"b,c\n1,2\n')
    assert table(tmp_path / "a.csv", "") == ({}, [], {})
    with pytest.raises(CorpusError, match=r"a\.txt is not a table; known are \.arrow, \.csv"):
        table(tmp_path / "a.txt", "")
