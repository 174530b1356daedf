"""Filters over HTTP: forms, facets, places, areas, rows without terms, and what nothing found says."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from llm2clip_search.engine import Searcher, open_index
from llm2clip_search.server import service as services
from llm2clip_search.server.app import create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.filtering import MOST_IDS
from llm2clip_search.server.service import Service
from llm2clip_search.store import Writer
from tests.support.encoders import ColourEncoder
from tests.support.photos import photos, rows_of
from tests.support.server import served, wait_until

ROWS = rows_of(150, seed=4)
API = "/api/v1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filters") / "i"
    photos(folder, ROWS)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with served(folder, encoder=ColourEncoder()) as client:
        yield client


@pytest.fixture
def searcher(folder: Path) -> Searcher:
    return open_index(folder, encoder=ColourEncoder())


def post(client: TestClient, path: str, status: int = 200, **body: Any) -> Any:
    answer = client.post(API + path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_filter_is_shown_as_a_form_and_as_sql(client: TestClient) -> None:
    form = [
        {"column": "width", "op": ">=", "value": 4000},
        {"column": "camera", "op": "contains", "value": "50%_"},
        {"column": "place", "op": "near", "value": {"latitude": 10.0, "longitude": 20.5, "km": 9000}},
    ]
    made = post(client, "/conditions", conditions=form)
    assert made["conditions"] == form
    back = post(client, "/conditions", where=made["where"])
    assert back == made
    assert made["matches"] == post(client, "/search", where=made["where"])["matches"]
    assert post(client, "/conditions", where="width > height")["conditions"] is None
    assert post(client, "/conditions") == {"where": "", "conditions": [], "matches": len(ROWS)}


@pytest.mark.parametrize(
    ("body", "kind", "parameter"),
    [
        ({"where": "breadth > 1"}, "bad-condition", "where"),
        ({"where": "width > "}, "bad-condition", "where"),
        ({"where": "read_blob('/etc/passwd') IS NULL"}, "bad-condition", "where"),
        ({"where": "true) OR (true"}, "bad-condition", "where"),
        ({"where": "x" * 5000}, "bad-condition", "where"),
        ({"conditions": [{"column": "breadth", "op": "="}]}, "bad-condition", "conditions"),
        ({"conditions": [{"column": "width", "op": "=", "value": "1"}]}, "bad-condition", "conditions"),
        ({"conditions": [{"column": "width", "op": "like", "value": "1"}]}, "bad-request", "conditions[0].op"),
        ({"conditions": [{"column": "width", "op": "=", "value": None, "x": 1}]}, "bad-request", "conditions[0]"),
        ({"area": [[0, 0], [1, 1]]}, "bad-request", "area"),
        ({"ids": ["1", "one"]}, "bad-request", "ids[1]"),
        ({"ids": ["1@0x1"]}, "bad-request", "ids[0]"),
        ({"area": [[0, 0], [1, 1], [1]]}, "bad-request", "area[2]"),
    ],
)
@pytest.mark.parametrize("path", ["/search", "/facets", "/places", "/conditions"])
def test_a_wrong_filter_is_refused_by_name(
    client: TestClient, path: str, body: dict[str, Any], kind: str, parameter: str
) -> None:
    problem = post(client, path, 400, **body)
    assert (problem["type"], problem["parameter"]) == (f"/problems/{kind}", parameter)


def test_both_kinds_of_conditions_hold_together(client: TestClient) -> None:
    both = post(
        client,
        "/search",
        where="width > 4000 OR height > 4000 -- either",
        conditions=[{"column": "format", "op": "=", "value": "png"}],
        terms=[{"text": "dusk"}],
        k=200,
    )
    wanted = {row.id for row in ROWS if ((row.width or 0) > 4000 or (row.height or 0) > 4000) and row.format == "PNG"}
    assert {int(hit["id"]) for hit in both["hits"]} == wanted
    assert both["matches"] == len(wanted)


def test_rows_come_without_terms_and_pages_continue(client: TestClient, searcher: Searcher) -> None:
    found: list[str] = []
    body: dict[str, Any] = {"sort": "-taken", "k": 40, "where": "width > 1000"}
    while True:
        page = post(client, "/search", **body)
        assert not any("score" in hit for hit in page["hits"])
        found += [hit["id"] for hit in page["hits"]]
        if page["next"] is None:
            break
        body["cursor"] = page["next"]
    expected = [str(hit.id) for hit in searcher.browse("width > 1000", sort="-taken", k=1000).hits]
    assert found == expected
    assert page["total"] == page["matches"] == len(expected)
    assert [hit["id"] for hit in post(client, "/search", k=2)["hits"]] == ["149", "148"]
    assert post(client, "/search", offset=148)["hits"][0]["rank"] == 149
    assert post(client, "/search", 400, sort="score")["type"] == "/problems/bad-request"


def test_facets_are_those_of_the_engine(client: TestClient, searcher: Searcher) -> None:
    found = post(client, "/facets", where="width > 1000", columns=["camera", "rating", "taken"])
    expected = searcher.facets("width > 1000", columns=["camera", "rating", "taken"])
    assert (found["matches"], found["partial"]) == (expected.matches, False)
    for shown, facet in zip(found["facets"], expected.facets, strict=True):
        assert {name: shown[name] for name in ("column", "kind", "missing", "distinct")} == {
            name: getattr(facet, name) for name in ("column", "kind", "missing", "distinct")
        }
        assert [(each["value"], each["count"]) for each in shown["values"]] == list(facet.values)
        assert [(each["from"], each["to"], each["count"]) for each in shown["bins"]] == [
            (each.start, each.end, each.count) for each in facet.bins
        ]
    assert {facet["column"] for facet in post(client, "/facets")["facets"]} >= {"camera", "format", "taken", "size"}
    assert post(client, "/facets", 400, columns=["breadth"])["type"] == "/problems/bad-request"
    assert post(client, "/facets", 400, limit=0)["parameter"] == "limit"


def test_places_have_an_example(client: TestClient) -> None:
    found = post(client, "/places", cells=8)
    placed = {str(row.id) for row in ROWS if row.latitude is not None}
    assert found["matches"] == len(placed) == sum(cell["count"] for cell in found["cells"])
    assert {cell["id"] for cell in found["cells"]} <= placed
    assert post(client, "/places", 400, bounds=[5, 0, 1, 0])["type"] == "/problems/bad-request"


def test_an_area_bounds_search_facets_and_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(ServerConfig(indices=(folder,)), encoder=ColourEncoder())
    with TestClient(create_app(service), base_url="http://127.0.0.1:8410") as client:
        wait_until(lambda: service.state == "ready")
        square = [[0, 0], [1, 0], [1, 1]]
        assert post(client, "/search", 404, area=square)["parameter"] == "area"
        monkeypatch.setattr(service.map, "rows_within", lambda area, opened: [np.arange(10 * len(area))])
        assert post(client, "/search", area=square, terms=[{"text": "dusk"}], k=100)["matches"] == 30
        assert post(client, "/search", area=square, k=100)["matches"] == 30
        assert post(client, "/facets", area=square, where="id > 20")["matches"] == 9
        placed = [row for row in ROWS[:30] if row.latitude is not None]
        assert post(client, "/places", area=square)["matches"] == len(placed)
        nothing = post(client, "/search", area=square, where="id > 100")["nothing"]
        assert [(each["area"], each["matches"]) for each in nothing["without"]] == [(False, 30), (True, 49)]
        both = post(client, "/search", area=square, ids=["29", "3", "30", "9999"])
        assert [hit["id"] for hit in both["hits"]] == ["29", "3"]


def test_nothing_says_which_condition_removed_all(client: TestClient) -> None:
    form = [{"column": "width", "op": ">", "value": 100}, {"column": "camera", "op": "=", "value": "none"}]
    found = post(client, "/search", conditions=form, where="height > 4000", terms=[{"text": "dusk"}])
    assert found["hits"] == []
    wide = sum((row.width or 0) > 100 and (row.height or 0) > 4000 for row in ROWS)
    assert found["nothing"] == {
        "rows": len(ROWS),
        "without": [
            {"condition": form[0], "where": None, "area": False, "ids": False, "matches": 0},
            {"condition": form[1], "where": None, "area": False, "ids": False, "matches": wide},
            {
                "condition": {"column": "height", "op": ">", "value": 4000},
                "where": None,
                "area": False,
                "ids": False,
                "matches": 0,
            },
        ],
        "best_score": None,
    }
    assert post(client, "/search", where="id < 0")["nothing"]["without"][0]["matches"] == len(ROWS)
    best = post(client, "/search", terms=[{"text": "dusk"}], k=1)["hits"][0]["score"]
    weak = post(client, "/search", terms=[{"text": "dusk"}], min_score=1.0)["nothing"]
    assert (weak["best_score"], weak["without"]) == (pytest.approx(best), [])
    assert post(client, "/search", terms=[{"text": "dusk"}])["nothing"] is None


def test_hidden_places_cannot_be_asked_for(folder: Path) -> None:
    near = {"column": "place", "op": "near", "value": {"latitude": 0, "longitude": 0, "km": 1}}
    with served(folder, encoder=ColourEncoder(), hide_location=True) as client:
        for path in ("/search", "/facets", "/conditions"):
            for body in ({"where": "Latitude > 0"}, {"where": "km_between(1, longitude, 2, 3) < 4"}):
                assert post(client, path, 400, **body)["type"] == "/problems/bad-condition"
            assert post(client, path, 400, conditions=[near])["type"] == "/problems/bad-condition"
        assert post(client, "/places", 403)["type"] == "/problems/forbidden"
        assert post(client, "/facets", 403, columns=["latitude"])["type"] == "/problems/forbidden"
        assert post(client, "/search", 403, sort="-latitude")["type"] == "/problems/forbidden"
        names = {column["name"] for column in client.get(f"{API}/index").json()["columns"]}
        assert not names & {"latitude", "longitude"}
        assert "mtime" in names


def test_hidden_places_are_those_of_sources_too(tmp_path: Path) -> None:
    """Whatever a source calls them, and wherever a column could be seen, asked for or told from an order."""
    told = {
        "exif": pa.array(['{"GPSLatitude": "52.5"}', None]),
        "GPSLatitude": pa.array([52.5, 13.25]),
        "photo_lat": pa.array([52.5, 13.25]),
        "long": pa.array([52.5, 13.25]),
        "shot": pa.array([{"at": {"lon": 52.5}}, None]),
        "tracks": pa.array([[{"geo": 52.5}], []]),
        "meta": pa.array(['{"who": "a \\"x\\"", "gps_lat": 52.5}', None]),  # as objects of sources are stored
        "parts": pa.array([' [{"n": 1}, {"at": {"Longitude": 52.5}}]', "[]"]),
        "raw": pa.array(['{"header": "{\\"GPSLatitude\\": 52.5}"}', None]),
        "dict": pa.array(["{'lon': 52.5}", None]),
    }
    kept = {
        "platform": pa.array(["flat", "flat"]),
        "long_caption": pa.array(["a lonely latch"] * 2),
        "note": pa.array(['says "lat": 1', "lat: 3"]),
        "other": pa.array(['{"platform": "lat", "long_name": 1}'] * 2),
    }
    with Writer.open(tmp_path / "i", model=ColourEncoder().identity, dim=ColourEncoder().dim) as writer:
        vectors = np.eye(2, ColourEncoder().dim, dtype=np.float32)
        writer.commit(rows_of(2), vectors, columns=pa.table(kept | told))
    with served(tmp_path / "i", encoder=ColourEncoder(), hide_location=True) as client:
        for terms in ([], [{"text": "dusk"}]):
            for hit in post(client, "/search", terms=terms)["hits"]:
                assert set(hit["columns"]) == set(kept)
        assert set(client.get(f"{API}/images/0").json()["columns"]) == set(kept)
        table = client.post(f"{API}/search?format=csv", json={}).text
        assert "52.5" not in table
        assert not set(told) & set(table.splitlines()[0].split(","))
        for name in told:
            assert (
                post(client, "/search", 400, where=f'"{name.upper()}" IS NOT NULL')["type"] == "/problems/bad-condition"
            )
            assert post(client, "/search", 403, sort=f"-{name}")["parameter"] == "sort"
            assert post(client, "/facets", 403, columns=[name])["parameter"] == "columns"
        counted = {facet["column"] for facet in post(client, "/facets")["facets"]}
        assert "platform" in counted
        assert not counted & set(told)
        assert not set(told) & {column["name"] for column in client.get(f"{API}/index").json()["columns"]}
    with served(tmp_path / "i", encoder=ColourEncoder()) as client:
        assert set(post(client, "/search")["hits"][-1]["columns"]) == set(told) | set(kept)


def test_ids_name_their_index(folder: Path, tmp_path: Path) -> None:
    other = rows_of(20, seed=9)
    photos(tmp_path / "other", other)
    with served(folder, tmp_path / "other", encoder=ColourEncoder()) as client:
        found = post(client, "/places", where="id < 20")
        ids = Counter(cell["id"].partition("@")[2] for cell in found["cells"])
        assert set(ids) <= {"1", "2"}
        assert found["matches"] == sum(row.latitude is not None for row in (*ROWS[:20], *other))
        assert post(client, "/search", k=1)["hits"][0]["id"] == "149@1"
        chosen = ["3@1", "4@2", "19@2"]
        assert {hit["id"] for hit in post(client, "/search", ids=chosen)["hits"]} == set(chosen)
        assert {hit["id"] for hit in post(client, "/search", ids=chosen, terms=[{"text": "dusk"}])["hits"]} == set(
            chosen
        )
        lines = client.post(f"{API}/search?format=csv", json={"ids": chosen, "where": "id > 3"}).text.splitlines()
        assert {line.partition(",")[0] for line in lines[1:]} == {"4@2", "19@2"}
        assert post(client, "/search", ids=[])["nothing"]["without"][0]["matches"] == len(ROWS) + 20
        # The first does not say of which index, and the second is of one that is not served.
        for missing in ("3", "3@3"):
            assert post(client, "/search", 404, ids=[missing])["parameter"] == "ids"


def test_a_condition_has_its_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm2clip_search.engine.database import Session

    slow = "SELECT count(*) AS id FROM range(1000000000000) WHERE random() < 0.5"
    arrays = Session.arrays
    monkeypatch.setattr(services, "CONDITION_SECONDS", 0.3)
    with served(folder, encoder=ColourEncoder()) as client:
        monkeypatch.setattr(Session, "arrays", lambda self, sql: arrays(self, slow if "width" in sql else sql))
        problem = post(client, "/search", 400, where="width > 1")
        assert problem["type"] == "/problems/bad-condition"
        assert "took longer than 0.3 s" in problem["detail"]
        assert post(client, "/search", where="height > 1")["matches"] == len(ROWS)


def test_rows_that_are_named_are_the_only_ones(client: TestClient) -> None:
    every = [hit["id"] for hit in post(client, "/search", terms=[{"text": "boat"}], k=150)["hits"]]
    named = [every[9], every[3], every[3], "999999"]
    found = post(client, "/search", terms=[{"text": "boat"}], ids=named, k=150)
    assert [hit["id"] for hit in found["hits"]] == [every[3], every[9]]
    assert found["matches"] == 2
    assert post(client, "/search", ids=named, where="width < 0")["nothing"]["without"][0]["matches"] == 2
    assert post(client, "/search", ids=[])["total"] == 0
    column = post(client, "/facets", ids=named, columns=["width"])["facets"][0]
    assert sum(each["count"] for each in column["bins"]) == 2


@pytest.mark.parametrize("ids", [["x"], [4], ["-1"], "4", ["1"] * (MOST_IDS + 1)])
def test_ids_that_name_no_row_are_refused(client: TestClient, ids: Any) -> None:
    assert post(client, "/search", 400, ids=ids)["type"].endswith("/bad-request")
