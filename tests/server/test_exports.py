"""Results as files: the same rows in every form, and nothing that a spreadsheet would run."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from llm2clip_search.base.visible import visible
from llm2clip_search.indexers import index_folder
from llm2clip_search.server.api import search
from llm2clip_search.server.exports import cell
from llm2clip_search.store import Writer
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.photos import rows_of
from tests.support.server import served

CAPTION = {"terms": [{"text": "a wet dog"}]}


def hits(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.post("/api/v1/search", json=CAPTION | body).json()["hits"]
    return found


@pytest.mark.parametrize("page", [1_000, 7])
def test_every_form_holds_the_same_rows(client: TestClient, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    expected = hits(client, k=18)
    monkeypatch.setattr(search, "MOST", page)
    ndjson = client.post("/api/v1/search?format=ndjson", json=CAPTION | {"k": 18})
    assert ndjson.headers["content-type"] == "application/x-ndjson"
    assert ndjson.headers["content-disposition"] == 'attachment; filename="results.ndjson"'
    assert [json.loads(line) for line in ndjson.text.splitlines()] == expected
    table = client.post("/api/v1/search?format=csv", json=CAPTION | {"k": 18})
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["id"] for row in rows] == [hit["id"] for hit in expected]
    assert [float(row["score"]) for row in rows] == [hit["score"] for hit in expected]
    assert [row["path"] for row in rows] == [hit["path"] for hit in expected]
    paths = client.post("/api/v1/search?format=paths", json=CAPTION | {"k": 18})
    assert paths.text.splitlines() == [hit["path"] for hit in expected]


@pytest.mark.parametrize("sort", ["path", "-width"])
def test_the_best_results_are_exported_in_the_order_of_a_column(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    best = {hit["id"] for hit in hits(client, k=12)}
    expected = hits(client, k=12, sort=sort)
    monkeypatch.setattr(search, "MOST", 5)
    for k in (12, 100_000):
        asked = {"text": "a wet dog", "sort": sort, "k": k, "format": "ndjson"}
        found = [json.loads(line) for line in client.get("/api/v1/search", params=asked).text.splitlines()]
        values = [hit[sort.removeprefix("-")] for hit in found]
        assert values == sorted(values, reverse=sort.startswith("-"))
        assert len(found) == min(k, 20)
        if k == 12:
            assert found == expected
            assert {hit["id"] for hit in found} == best


def test_the_form_follows_what_is_accepted(client: TestClient) -> None:
    for accept, media in {
        "text/csv": "text/csv",
        "text/plain;q=0.9, */*": "text/plain",
        "text/html, application/x-ndjson": "application/x-ndjson",
        "*/*": "application/json",
    }.items():
        answer = client.get("/api/v1/search", params={"text": "dog"}, headers={"Accept": accept})
        assert answer.headers["content-type"].partition(";")[0] == media
    csv_by_url = client.get("/api/v1/search", params={"text": "dog", "format": "csv", "k": 50_000})
    assert len(csv_by_url.text.splitlines()) == 21
    assert client.get("/api/v1/search", params={"format": "paths"}).text.count("\n") == 20  # no term: all rows


def test_a_wrong_request_is_a_problem_and_no_file(client: TestClient) -> None:
    wrong = client.post("/api/v1/search?format=csv", json=CAPTION | {"where": "no_such = 1"})
    assert wrong.status_code == 400
    assert wrong.headers["content-type"] == "application/problem+json"
    assert client.post("/api/v1/search?format=xlsx", json=CAPTION).status_code == 400
    assert client.post("/api/v1/search", json=CAPTION | {"k": 1_001}).json()["parameter"] == "k"
    assert client.post("/api/v1/search?format=csv", json=CAPTION | {"k": 100_001}).status_code == 400


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[TestClient]:
    """A server of files whose names are meant for spreadsheets and shells."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(("=cmd|' C calc'!A0.png", "two\nlines.png", 'a,"b".png')):
        photograph(number).save(folder / name, "PNG")
    index_folder(folder, encoder=ColourEncoder(), index=tmp_path / "i")
    with served(tmp_path / "i", encoder=ColourEncoder()) as client:
        yield client


def test_odd_names_stay_one_row(odd: TestClient) -> None:
    rows = list(csv.DictReader(io.StringIO(odd.get("/api/v1/search?format=csv").text, newline="")))
    assert len(rows) == 3
    assert "'=cmd|' C calc'!A0.png" in [row["name"] for row in rows]
    assert {row["path"].rpartition("/")[2] for row in rows} >= {"two\nlines.png", 'a,"b".png'}
    lines = odd.get("/api/v1/search?format=paths").text.splitlines()
    assert len(lines) == 3
    assert any(line.endswith(r"two\nlines.png") for line in lines)


def test_columns_that_are_called_as_fields_of_hits_are_kept(tmp_path: Path) -> None:
    encoder = ColourEncoder()
    own = {"name": "Ada", "hash": "abc", "rank": "first", "columns": "two", "source_hash": "def", "place": "Paris"}
    with Writer.open(tmp_path / "i", model=encoder.identity, dim=encoder.dim) as writer:
        vectors = np.eye(encoder.dim, dtype=np.float32)[:2]
        writer.commit(rows_of(2), vectors, columns=pa.table({name: [value, None] for name, value in own.items()}))
    with served(tmp_path / "i", encoder=encoder) as client:
        last, first = client.post("/api/v1/search", json={}).json()["hits"]
        assert (first["columns"], "columns" in last) == (own, False)
        assert first["name"].endswith(".jpg")
        assert client.get("/api/v1/images/0").json()["columns"] == own
        lines = csv.reader(io.StringIO(client.post("/api/v1/search?format=csv", json={}).text, newline=""))
        head, _, cells = lines
        assert len({*head}) == len(head)
        row = dict(zip(head, cells, strict=True))
        shown = ("source_name", "source_source_hash", "source_rank", "columns", "source_hash", "place")
        assert [row[name] for name in shown] == list(own.values())
        assert row["name"] == first["name"]
        filters = ({"column": "place", "op": "=", "value": "Paris"}, {"column": "name", "op": "=", "value": "Ada"})
        for condition in filters:
            found = client.post("/api/v1/search", json={"conditions": [condition]}).json()
            assert [hit["id"] for hit in found["hits"]] == ["0"]
        near = {"column": "place", "op": "near", "value": {"latitude": 0, "longitude": 0, "km": 30_000}}
        placed = sum(row.latitude is not None for row in rows_of(2))
        assert client.post("/api/v1/search", json={"conditions": [near]}).json()["matches"] == placed


@given(st.one_of(st.text(), st.sampled_from("=+-@\t\r\n").flatmap(lambda first: st.text().map(first.__add__))))
def test_no_text_begins_as_a_formula_does(text: str) -> None:
    shown = cell(text)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    seen = visible(text, keep="\t\r\n")
    assert shown.removeprefix("'") == seen.removeprefix("'") if text.startswith("'") else shown in (seen, f"'{seen}")
    assert all(each.isprintable() or each in "\t\r\n\u200c\u200d" for each in shown)


def test_numbers_stay_numbers() -> None:
    assert cell(-0.25) == "-0.25"
    assert cell(None) == ""
    assert cell(["a", "b"]) == '["a","b"]'
