"""What is served, and how far the server is."""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from llm2clip_search import encoders, engine
from llm2clip_search.errors import ModelError
from llm2clip_search.indexers import index_folder
from llm2clip_search.server.app import create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.problems import BusyError
from llm2clip_search.server.service import WATCH_S, Service
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.server import served, wait_until


def test_the_index_describes_itself(client: TestClient, indexed: Path) -> None:
    answer = client.get("/api/v1/index").json()
    [only] = answer["indices"]
    assert (only["folder"], only["rows"], only["failures"]) == (str(indexed), 20, 0)
    assert only["sources"] == [{"path": str(indexed.parent / "images"), "exists": True}]
    assert (answer["rows"], answer["holds"], answer["model"]) == (20, ["images"], "colours:16")
    kinds = {column["name"]: column["kind"] for column in answer["columns"]}
    assert (kinds["width"], kinds["taken"], kinds["mtime"], kinds["path"]) == ("number", "time", "time", "text")
    assert "mtime_ns" not in kinds
    assert "version" not in kinds


def test_hidden_locations_are_no_columns(indexed: Path) -> None:
    with served(indexed, encoder=ColourEncoder(), hide_location=True) as client:
        answer = client.get("/api/v1/index").json()
        assert answer["hides_location"] is True
        assert not {"latitude", "longitude"} & {column["name"] for column in answer["columns"]}


def test_an_index_that_comes_later_is_served(tmp_path: Path) -> None:
    index = tmp_path / ".llm2clip"
    service = Service(ServerConfig(indices=(index,)), encoder=ColourEncoder())
    with TestClient(create_app(service), base_url="http://127.0.0.1:8410") as client:
        wait_until(lambda: client.get("/api/v1/ready").json()["state"] == "no-index")
        answer = client.get("/api/v1/search?text=red")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/no-index")
        assert str(index) in answer.json()["detail"]
        assert client.get("/api/v1/health").json() == {"status": "ok"}
        folder = tmp_path / "images"
        folder.mkdir()
        photograph(1, size=(64, 48)).save(folder / "a.png")
        index_folder(folder, encoder=ColourEncoder(), index=index)
        wait_until(lambda: client.get("/api/v1/ready").status_code == 200)
        assert client.get("/api/v1/search?text=red").json()["total"] == 1


def test_an_index_that_is_missing_is_named_though_its_name_is_not_utf8(tmp_path: Path) -> None:
    service = Service(ServerConfig(indices=(tmp_path / os.fsdecode(b"caf\xe9"),)), encoder=ColourEncoder())
    with TestClient(create_app(service), base_url="http://127.0.0.1:8410") as client:
        wait_until(lambda: client.get("/api/v1/ready").json()["state"] == "no-index")
        assert f"{tmp_path}/caf\ufffd" in client.get("/api/v1/ready").json()["detail"]
        answer = client.get("/api/v1/search?text=red")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/no-index")
        assert f"{tmp_path}/caf\ufffd" in answer.json()["detail"]


def test_a_damaged_index_is_named_and_the_open_one_still_served(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    photograph(1, size=(64, 48)).save(folder / "a.png")
    index = tmp_path / ".llm2clip"
    index_folder(folder, encoder=ColourEncoder(), index=index)
    with served(index, encoder=ColourEncoder()) as client:
        (index / "manifest.json").write_text("{")
        wait_until(lambda: "manifest" in client.get("/api/v1/ready").json()["detail"])
        assert client.get("/api/v1/search?text=red").json()["total"] == 1
    service = Service(ServerConfig(indices=(index,)), encoder=ColourEncoder())
    with TestClient(create_app(service), base_url="http://127.0.0.1:8410") as client:
        wait_until(lambda: client.get("/api/v1/ready").json()["state"] == "failed")
        assert client.get("/api/v1/search?text=red").status_code == 500


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelError("the weights are not here"), "The vision tower could not be loaded: the weights are not here"),
        (OSError("/home/me/.secret"), "The vision tower could not be loaded for a reason that the server's log names."),
    ],
)
def test_a_tower_that_does_not_load_is_named(
    indexed: Path, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    class Broken(ColourEncoder):
        def encode_pixels(self, pixels: object) -> object:  # type: ignore[override]
            raise error

    with served(indexed, encoder=Broken()) as client:
        wait_until(lambda: client.get("/api/v1/ready").json()["vision"] == "failed")
        wait_until(lambda: client.get("/api/v1/ready").json()["detail"])
        answer = client.get("/api/v1/ready").json()
        assert (answer["state"], answer["text"]) == ("ready", "ready")
        assert answer["detail"] == told
    assert str(error) in caplog.text


def test_what_nobody_expected_is_for_the_log_only(
    indexed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/home/me/.secret")

    monkeypatch.setattr(engine, "open_index", broken)
    service = Service(ServerConfig(indices=(indexed,)), encoder=ColourEncoder())
    with TestClient(create_app(service), base_url="http://127.0.0.1:8410") as client:
        wait_until(lambda: client.get("/api/v1/ready").json()["state"] == "failed")
        for answer in (client.get("/api/v1/ready"), client.get("/api/v1/search?text=red")):
            assert "The index could not be opened for a reason that the server's log names." in answer.text
            assert "secret" not in answer.text
        wait_until(lambda: caplog.text.count("RuntimeError: /home/me/.secret"))
        time.sleep(2.5 * WATCH_S)
    assert caplog.text.count("RuntimeError: /home/me/.secret") == 1  # not at each look at the index


def test_a_stop_while_the_towers_load_is_no_failure(indexed: Path, caplog: pytest.LogCaptureFixture) -> None:
    loading, stopped = Event(), Event()

    class Slow(ColourEncoder):
        def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
            loading.set()
            assert stopped.wait(60)
            return super().encode_texts(texts, batch_size=batch_size)

    service = Service(ServerConfig(indices=(indexed,)), encoder=Slow())
    service.start()
    assert loading.wait(60)
    [warming] = [thread for thread in threading.enumerate() if thread.name == "warming"]
    service.close()
    stopped.set()
    warming.join(60)
    assert caplog.messages == []


def made_by(dim: int, folder: Path) -> None:
    """An index of one picture in a folder, in place of any that is there."""
    shutil.rmtree(folder / ".llm2clip", ignore_errors=True)
    photograph(1, size=(64, 48)).save(folder / "a.png")
    index_folder(folder, encoder=ColourEncoder(dim), index=folder / ".llm2clip")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[ColourEncoder]:
    """What was loaded: a name of eight colours gives eight, and any other gives sixteen."""
    loaded = list[ColourEncoder]()

    def load(name: str, **_: object) -> ColourEncoder:
        loaded.append(ColourEncoder(8 if name == "colours:8" else 16))
        return loaded[-1]

    monkeypatch.setattr(encoders, "load_encoder", load)
    return loaded


def test_an_index_of_another_model_is_refused_once(
    tmp_path: Path, loaded: list[ColourEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[object]()
    open_index = engine.open_index

    def counted(folders: list[Path], **how: Any) -> Any:
        opened.append(folders)
        return open_index(folders, **how)

    monkeypatch.setattr(engine, "open_index", counted)
    made_by(4, tmp_path)
    service = Service(ServerConfig(indices=(tmp_path / ".llm2clip",)))
    with TestClient(create_app(service), base_url="http://127.0.0.1:8410") as client:
        wait_until(lambda: client.get("/api/v1/ready").json()["state"] == "failed")
        for _ in range(3):
            service.refresh()
        time.sleep(2.5 * WATCH_S)  # the watcher would warm what it takes for another model
        assert (len(loaded), len(opened), loaded[0].embedded) == (1, 1, 0)
        assert "was made by colours:4" in service.detail
        photograph(2, size=(64, 48)).save(tmp_path / "b.png")
        index_folder(tmp_path, encoder=ColourEncoder(4), index=tmp_path / ".llm2clip")
        wait_until(lambda: len(opened) == 2)
        assert len(loaded) == 1
        made_by(8, tmp_path)
        wait_until(lambda: client.get("/api/v1/ready").status_code == 200)
        assert [each.name for each in loaded] == ["colours:16", "colours:8"]


def test_the_encoder_of_an_index_that_is_replaced_is_closed(tmp_path: Path, loaded: list[ColourEncoder]) -> None:
    made_by(16, tmp_path)
    service = Service(ServerConfig(indices=(tmp_path / ".llm2clip",)))
    with TestClient(create_app(service), base_url="http://127.0.0.1:8410") as client:
        wait_until(lambda: client.get("/api/v1/ready").status_code == 200)
        before = service.opened.searcher.encoder
        made_by(4, tmp_path)
        wait_until(lambda: "was made by colours:4" in client.get("/api/v1/ready").json()["detail"])
        assert len(before.encode_texts(["the index that is open is still served"])) == 1
        made_by(8, tmp_path)
        wait_until(lambda: service.opened.searcher.encoder.name == "colours:8")
        wait_until(lambda: service.towers == {"text": "ready", "vision": "ready"})
        with pytest.raises(BusyError, match="another model"):
            before.encode_texts(["nobody should ask it"])
        assert client.get("/api/v1/search?text=red").json()["total"] == 1
    assert [each.embedded for each in loaded] == [3, 0, 3]


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/nothing", "/static/missing.js", "/api/v1/"])
def test_what_is_not_there_is_a_problem(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
    assert client.delete("/api/v1/search").json()["type"] == "/problems/method-not-allowed"
