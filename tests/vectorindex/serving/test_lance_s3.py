"""LanceDB on an object store: moto's server on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm2clip_search import EngineError, open_index, publish_index
from llm2clip_search.vectorindex.serving.opening import open_engine
from tests.support.encoders import ColourEncoder
from tests.support.s3 import KEYS, fill_bucket, s3_server
from tests.support.serving import commit


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server() as address:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        yield address


def test_an_index_is_published_to_a_bucket_and_searched_there(endpoint: str, tmp_path: Path) -> None:
    fill_bucket(endpoint, "lance-photos", {"other/notes.txt": b"mine"})
    index, url = commit(tmp_path / "photos", range(40)), "lance:s3://lance-photos/some/photos"
    assert publish_index(index, url).added == 40
    commit(tmp_path / "photos", [40], removed=[3])
    summary = publish_index(index, url)
    assert (summary.added, summary.deleted) == (1, 1)
    expected = open_index(index, encoder=ColourEncoder()).query("a dog", where="width > 650")
    for folder in (index, None):
        served = open_index(folder, encoder=ColourEncoder(), engine=url).query("a dog", where="width > 650")
        assert [(hit.id, hit.score) for hit in served.hits] == [(hit.id, hit.score) for hit in expected.hits]
        assert served.plan.device == "engine"


def test_a_missing_bucket_and_a_silent_endpoint_are_said(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"lance:s3://lance-nowhere/photos failed: the bucket does not exist\.$"):
        open_engine("lance:s3://lance-nowhere/photos").state()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(EngineError, match="failed: nothing listens there"):
        open_engine("lance:s3://lance-nowhere/photos").state()
