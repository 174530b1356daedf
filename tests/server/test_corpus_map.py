"""The map of the corpus over HTTP: made once in a process of its own, kept, and brought up to date."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from llm2clip_search.indexers import index_folder
from llm2clip_search.server import corpus_map
from llm2clip_search.server.app import create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.service import Service
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.server import served, wait_until


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def state(client: TestClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/api/v1/map").json()
    return answer


def points(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, group, id and index, as the API describes them."""
    [count] = struct.unpack_from("<I", data)
    assert len(data) == 4 + count * (4 + 4 + 1 + 8 + 1)
    at, found = 4, []
    for kind in ("<f4", "<f4", "u1", "<f8", "u1"):
        found.append(np.frombuffer(data, kind, count, at))
        at += found[-1].nbytes
    x, y, group, ids, index = found
    return x, y, group, ids, index


def made(client: TestClient) -> None:
    client.post("/api/v1/map")
    wait_until(lambda: state(client)["state"] in ("ready", "failed"))
    assert state(client)["state"] == "ready"


def test_the_map_is_made_kept_and_brought_up_to_date(indexed: Path, own_cache: Path, tmp_path: Path) -> None:
    with served(indexed, encoder=ColourEncoder()) as client:
        assert state(client)["state"] == "none"
        missing = client.get("/api/v1/map/points")
        assert missing.status_code == 404
        assert missing.json()["type"] == "/problems/not-found"
        begun = client.post("/api/v1/map").json()
        assert begun["state"] == "computing"
        assert 0 <= begun["progress"] <= 1
        made(client)
        assert state(client)["points"] == 20
        assert [path.suffix for path in (own_cache / "maps").iterdir()] == [".npz"]
        answer = client.get("/api/v1/map/points")
        x, y, _, ids, index = points(answer.content)
        assert sorted(ids.tolist()) == list(map(float, range(20)))
        assert set(index.tolist()) == {0}
        assert ((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).all()
        unchanged = client.get("/api/v1/map/points", headers={"If-None-Match": answer.headers["etag"]})
        assert unchanged.status_code == 304
    with served(indexed, encoder=ColourEncoder()) as client:  # another server finds it
        assert state(client)["state"] == "ready"
        assert client.get("/api/v1/map/points").content == answer.content
        before = client.get("/api/v1/ready").json()["generation"]
        photograph(77).save(indexed.parent / "images" / "new.png")
        index_folder(indexed.parent / "images", encoder=ColourEncoder(), index=indexed)
        wait_until(lambda: client.get("/api/v1/ready").json()["generation"] != before)
        wait_until(lambda: state(client)["state"] == "ready")
        now = points(client.get("/api/v1/map/points").content)
        assert len(now[3]) == 21
        assert dict(zip(now[3][:20], now[0][:20], strict=True)) == dict(zip(ids, x, strict=True))


@pytest.fixture
def service(indexed: Path, own_cache: Path) -> Iterator[tuple[Service, TestClient]]:
    given = Service(ServerConfig(indices=(indexed,)), encoder=ColourEncoder())
    with TestClient(create_app(given), base_url="http://127.0.0.1:8410") as client:
        wait_until(lambda: client.get("/api/v1/ready").status_code == 200)
        yield given, client


def test_rows_within_a_polygon_are_those_of_the_points_in_it(service: tuple[Service, TestClient]) -> None:
    given, client = service
    made(client)
    x, _, _, ids, _ = points(client.get("/api/v1/map/points").content)
    half = [[-1.0, -1.0], [0.5, -1.0], [0.5, 2.0], [-1.0, 2.0]]
    [found] = given.map.rows_within(half, given.opened)
    assert found.tolist() == sorted(ids[x < 0.5].astype(int).tolist())
    assert 0 < len(found) < len(ids)
    hits = client.post("/api/v1/search", json={"area": half}).json()["hits"]
    assert sorted(int(hit["id"]) for hit in hits) == found.tolist()


def test_what_fails_is_said_and_can_be_tried_again(service: tuple[Service, TestClient], own_cache: Path) -> None:
    _, client = service
    own_cache.mkdir(exist_ok=True)
    (own_cache / "maps").write_text("a file where a folder should be")
    client.post("/api/v1/map")
    wait_until(lambda: state(client)["state"] == "failed")
    assert "maps" in state(client)["detail"] or "cache" in state(client)["detail"]
    (own_cache / "maps").unlink()
    made(client)


def test_a_process_that_dies_is_a_failure(service: tuple[Service, TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    given, client = service
    client.post("/api/v1/map")
    given.map.close()  # as at shutdown: the process is ended
    wait_until(lambda: state(client)["state"] != "computing")
    assert state(client)["state"] == "failed"
    monkeypatch.setattr(given.map, "_is_closed", True)
    assert client.post("/api/v1/map").json()["state"] == "failed"  # nothing new is begun


def test_a_plain_map_says_how_to_get_a_better_one(service: tuple[Service, TestClient]) -> None:
    assert "[map]" in corpus_map.PLAIN
    _, client = service
    made(client)
    assert state(client)["detail"] == ""
