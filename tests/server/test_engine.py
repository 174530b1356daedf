"""A server that searches where its index was published."""

import shutil
from pathlib import Path

import pytest

from llm2clip_search import EngineError, publish_index
from tests.support.encoders import ColourEncoder
from tests.support.server import served


@pytest.fixture
def photos(indexed: Path, tmp_path: Path) -> Path:
    """A copy of the index, which a test may publish."""
    return Path(shutil.copytree(indexed.parent, tmp_path / "photos")) / ".llm2clip"


def test_searches_go_to_the_engine_and_all_else_to_the_index(photos: Path, tmp_path: Path) -> None:
    url = f"lance:{tmp_path / 'lance'}"
    publish_index(photos, url)
    with (
        served(photos, encoder=ColourEncoder(), engine=url) as client,
        served(photos, encoder=ColourEncoder()) as plain,
    ):
        for query in ("text=red", "text=red&where=width>80", "text=red&where=lower(format)='png'", "where=width>80"):
            answer, expected = (each.get(f"/api/v1/search?{query}").json() for each in (client, plain))
            assert [hit["id"] for hit in answer["hits"]] == [hit["id"] for hit in expected["hits"]]
            assert answer["total"] == expected["total"]
        explained = client.get("/api/v1/search?text=red&explain=true").json()
        assert explained["explain"]["plans"][0]["device"] == "engine"
        for path in ("/api/v1/facets", "/api/v1/images/3", "/api/v1/places"):
            assert client.get(path).json().keys() == plain.get(path).json().keys()


def test_an_engine_that_does_not_answer_is_a_problem_of_its_own(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm2clip_search.vectorindex.serving.lance import LanceEngine

    url = f"lance:{tmp_path / 'lance'}"
    publish_index(photos, url)
    with served(photos, encoder=ColourEncoder(), engine=url) as client:

        def lost(*_: object, **__: object) -> None:
            raise EngineError("The engine cannot be reached.")

        monkeypatch.setattr(LanceEngine, "search", lost)
        answer = client.get("/api/v1/search?text=red")
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems/engine"
        assert answer.json()["detail"] == "The engine cannot be reached."
        assert client.get("/api/v1/images/3").status_code == 200
