"""Searches over HTTP against the engine: pages, cursors, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from llm2clip_search.encoders.calibration import Calibration
from llm2clip_search.engine import open_index
from llm2clip_search.indexers import index_folder
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.server import served, wait_until

SEARCH = "/api/v1/search"


def ask(client: TestClient, **asked: Any) -> Any:
    answer = client.post(SEARCH, json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_hits_are_those_of_the_engine(client: TestClient, indexed: Path) -> None:
    opened = open_index(indexed, encoder=ColourEncoder())
    expected = opened.query("red", like="3^0.5", add="rain^0.25", k=7, where="width > 70")
    terms = [{"text": "red"}, {"like": "3", "weight": 0.5}, {"text": "rain", "weight": 0.25}]
    answer = ask(client, terms=terms, k=7, where="width > 70", explain=True)
    assert [(int(hit["id"]), hit["rank"]) for hit in answer["hits"]] == [(hit.id, hit.rank) for hit in expected.hits]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in expected.hits])
    first, row = answer["hits"][0], expected.hits[0]
    assert (first["path"], first["width"], first["hash"]) == (
        row.uri,
        row.metadata["width"],
        row.metadata["content_hash"][:16],
    )
    assert answer["matches"] == answer["total"] == 18
    assert answer["explain"]["plans"][0]["strategy"] == expected.plan.strategy


def test_the_url_says_the_same_as_the_body(client: TestClient) -> None:
    posted = ask(client, terms=[{"text": "red"}, {"like": "3"}, {"like": "5", "weight": -0.5}], k=5)
    got = client.get(SEARCH, params={"text": "red", "like": "3", "unlike": "5^0.5", "k": 5}).json()
    assert got["hits"] == posted["hits"]


@pytest.mark.parametrize("k", [1, 3, 20, 50])
def test_pages_continue_each_other(client: TestClient, k: int) -> None:
    whole = ask(client, terms=[{"text": "blue"}], k=50)["hits"]
    pages: list[Any] = []
    cursor = None
    while True:
        page = ask(client, terms=[{"text": "blue"}], k=k, cursor=cursor)
        pages += page["hits"]
        if (cursor := page["next"]) is None:
            break
    assert pages == whole
    assert len(pages) == 20


def test_any_place_of_a_ranking_is_reached(client: TestClient) -> None:
    whole = ask(client, terms=[{"text": "blue"}], k=50)
    part = ask(client, terms=[{"text": "blue"}], k=4, offset=11, generation=whole["generation"])
    assert part["hits"] == whole["hits"][11:15]
    assert ask(client, terms=[{"text": "blue"}], k=4, offset=99)["hits"] == []


def test_a_threshold_ends_the_ranking(client: TestClient) -> None:
    whole = ask(client, terms=[{"text": "blue"}], k=50)["hits"]
    least = whole[6]["score"]
    part = ask(client, terms=[{"text": "blue"}], k=3, min_score=least)
    assert (part["total"], part["complete"], part["matches"]) == (7, True, 20)
    assert part["hits"] == whole[:3]


def test_a_caption_that_is_cut_says_where(client: TestClient) -> None:
    caption = " ".join(f"word{number}" for number in range(40))
    answer = ask(client, terms=[{"text": caption}], k=1)
    [cut] = answer["cut"]
    assert (cut["term"], cut["count"], cut["limit"]) == (0, 41, 24)
    assert len(caption[: cut["at"]].split()) == 23
    assert len(answer["warnings"]) == 1


@pytest.mark.parametrize(
    ("asked", "parameter"),
    [
        ({"k": 0}, "k"),
        ({"k": 1_000_000}, "k"),
        ({"offset": -1}, "offset"),
        ({"min_score": 2}, "min_score"),
        ({"kk": 1}, "kk"),
        ({"terms": [{}]}, "terms[0]"),
        ({"terms": [{"text": "a", "like": "1"}]}, "terms[0]"),
        ({"terms": [{"like": "../../etc/passwd"}]}, "terms[0].like"),
        ({"terms": [{"text": "a", "weight": "much"}]}, "terms[0].weight"),
        ({"terms": [{"text": "red"}], "cursor": "nonsense"}, "cursor"),
        ({"terms": [{"text": "red"}], "find": "sounds"}, "find"),
    ],
)
def test_a_wrong_request_names_the_parameter(client: TestClient, asked: dict[str, Any], parameter: str) -> None:
    answer = client.post(SEARCH, json=asked)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert (problem["type"], problem["parameter"]) == ("/problems/bad-request", parameter)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"k": NaN}'])
def test_what_is_no_request_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post(SEARCH, content=body)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")


def test_an_id_that_does_not_exist_is_a_sentence(client: TestClient) -> None:
    problem = client.post(SEARCH, json={"terms": [{"like": "4711"}]}).json()
    assert problem["status"] == 400
    assert "4711" in problem["detail"]


def test_a_cursor_does_not_survive_another_query_or_a_change(tmp_path: Path) -> None:
    encoder = ColourEncoder()
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        photograph(number, size=(64, 48)).save(folder / f"{number}.png")
    index = tmp_path / ".llm2clip"
    index_folder(folder, encoder=encoder, index=index)
    with served(index, encoder=ColourEncoder()) as client:
        first = ask(client, terms=[{"text": "red"}], k=2)
        other = client.post(SEARCH, json={"terms": [{"text": "green"}], "k": 2, "cursor": first["next"]})
        assert (other.status_code, other.json()["parameter"]) == (400, "cursor")
        photograph(9, size=(64, 48)).save(folder / "new.png")
        index_folder(folder, encoder=encoder, index=index)
        wait_until(lambda: client.get("/api/v1/ready").json()["generation"] != first["generation"])
        for asked in ({"cursor": first["next"]}, {"offset": 2, "generation": first["generation"]}):
            answer = client.post(SEARCH, json={"terms": [{"text": "red"}], "k": 2, **asked})
            assert (answer.status_code, answer.json()["type"]) == (409, "/problems/index-changed")
        assert ask(client, terms=[{"text": "red"}])["total"] == 5


def test_an_index_in_the_place_of_another_is_another_state(tmp_path: Path) -> None:
    """Both have the same numbers of commits and shards and the same ids."""
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        for number in range(3):
            photograph(10 * seed + number, size=(64, 48)).save(tmp_path / name / f"{number}.png")
    index = tmp_path / "index"
    index_folder(tmp_path / "a", encoder=ColourEncoder(), index=index)
    with served(index, encoder=ColourEncoder()) as client:
        first = ask(client, terms=[{"text": "red"}], k=2)
        path = "/api/v1/images/0/thumbnail"
        shown = client.get(path).content
        shutil.rmtree(index)
        index_folder(tmp_path / "b", encoder=ColourEncoder(), index=index)
        wait_until(lambda: client.get("/api/v1/search?k=1").json()["hits"][0]["path"].startswith(str(tmp_path / "b")))
        assert client.get("/api/v1/ready").json()["generation"] != first["generation"]
        assert client.get(path).content != shown
        answer = client.post(SEARCH, json={"terms": [{"text": "red"}], "k": 2, "cursor": first["next"]})
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/index-changed")


def test_several_indices_have_ids_of_their_own(tmp_path: Path, indexed: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    photograph(3, size=(64, 48)).save(folder / "3.png")
    index_folder(folder, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
    with served(indexed, tmp_path / ".llm2clip", encoder=ColourEncoder()) as client:
        hits = ask(client, terms=[{"like": "0@2"}], k=21)["hits"]
        assert len(hits) == 21
        assert [hit["id"] for hit in hits if hit["id"].endswith("@2")] == ["0@2"]


def test_a_calibrated_model_says_how_probable_a_hit_is(indexed: Path) -> None:
    class Calibrated(ColourEncoder):
        calibration = Calibration(lead=4.0, cosine=2.0, offset=-3.0)

    expected = open_index(indexed, encoder=Calibrated()).query("red", k=3)
    with served(indexed, encoder=Calibrated()) as client:
        hits = ask(client, terms=[{"text": "red"}], k=3)["hits"]
        assert [hit["probability"] for hit in hits] == pytest.approx([hit.probability for hit in expected.hits])
        composed = ask(client, terms=[{"text": "red"}, {"like": "3"}], k=3)["hits"]
        assert all("probability" not in hit for hit in composed)
        line = client.get(SEARCH, params={"text": "red", "k": 1, "format": "csv"}).text.splitlines()
        cells = dict(zip(line[0].split(","), line[1].split(","), strict=True))
        assert float(cells["probability"]) == pytest.approx(hits[0]["probability"])
