"""Saved searches: kept on disk for each set of indices, and bounded."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from llm2clip_search.server import saved_searches
from tests.support.encoders import ColourEncoder
from tests.support.server import served


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "llm2clip-search" / "saved"


def names(client: TestClient) -> list[str]:
    return [each["name"] for each in client.get("/api/v1/saved").json()["saved"]]


def test_searches_are_saved_renamed_and_deleted(client: TestClient, indexed: Path, data: Path) -> None:
    assert client.get("/api/v1/saved").json() == {"saved": []}
    answer = client.post("/api/v1/saved", json={"name": "wet dogs", "state": "q=a+wet+dog&find=images"})
    assert answer.status_code == 201
    one = answer.json()
    client.post("/api/v1/saved", json={"name": "<b>boats</b>", "state": "q=boat"})
    assert names(client) == ["wet dogs", "<b>boats</b>"]
    renamed = client.put(f"/api/v1/saved/{one['id']}", json={"name": "dogs"}).json()
    assert renamed == one | {"name": "dogs"}
    again = client.put(f"/api/v1/saved/{one['id']}", json={"state": "q=dog"}).json()
    assert again == one | {"name": "dogs", "state": "q=dog"}
    with served(indexed, encoder=ColourEncoder()) as other:  # another server of the same index
        assert names(other) == ["dogs", "<b>boats</b>"]
    assert client.delete(f"/api/v1/saved/{one['id']}").status_code == 204
    assert names(client) == ["<b>boats</b>"]
    assert len(list(data.iterdir())) == 1  # nothing temporary is left
    for method in ("PUT", "DELETE"):
        gone = client.request(method, f"/api/v1/saved/{one['id']}", json={})
        assert gone.status_code == 404
        assert gone.json()["parameter"] == "id"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "", "state": ""},
        {"name": "a" * 201, "state": ""},
        {"name": "a", "state": "q" * 8193},
        {"name": "a", "state": "", "id": "1"},
        {"name": None, "state": ""},
    ],
)
def test_wrong_searches_are_refused(client: TestClient, body: dict[str, object]) -> None:
    answer = client.post("/api/v1/saved", json=body)
    assert answer.status_code == 400
    assert names(client) == []


def test_saved_searches_are_bounded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_searches, "MOST", 2)
    codes = [client.post("/api/v1/saved", json={"name": "a", "state": ""}).status_code for _ in range(3)]
    assert codes == [201, 201, 413]


def test_a_damaged_file_is_named_and_kept(client: TestClient, data: Path) -> None:
    client.post("/api/v1/saved", json={"name": "a", "state": ""})
    [file] = data.iterdir()
    file.write_text('[{"id": 3}]')
    for answer in (client.get("/api/v1/saved"), client.post("/api/v1/saved", json={"name": "b", "state": ""})):
        assert answer.status_code == 500
        assert file.name in answer.json()["detail"]
    assert file.read_text() == '[{"id": 3}]'
