"""Indices of every schema open for ever: one of each, written by the version that had it, lies in ``fixtures``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.engine import SearchIndex
from llm2clip_search.engine.filter import Filter
from llm2clip_search.store import Row, Snapshot, Writer, verify_index
from llm2clip_search.store.manifest import SCHEMA_VERSION, SourceEntry
from tests.support.vectors import clustered

FIXTURES = Path(__file__).parent / "fixtures"
RELEASED = sorted(path.name for path in FIXTURES.iterdir())


def schema_of(index: Path) -> int:
    version: int = json.loads((index / "manifest.json").read_text())["schema_version"]
    return version


def test_every_schema_has_a_fixture() -> None:
    assert {schema_of(FIXTURES / name) for name in RELEASED} == set(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize("name", RELEASED)
def test_an_index_of_any_schema_is_sound_and_gets_the_next_commit(tmp_path: Path, name: str) -> None:
    """Ids, paths and vectors stay what they were, in an index of the present schema."""
    index = Path(shutil.copytree(FIXTURES / name, tmp_path / name))
    assert verify_index(index, full=True).damaged == ()
    before = Snapshot(index)
    manifest, ids = before.manifest, before.live_ids.tolist()
    paths, vectors = [each["path"] for each in before.rows(ids)], before.vectors(ids)
    assert schema_of(index) == schema_of(FIXTURES / name)  # a reader changes nothing
    with Writer.open(index, model=manifest.model, dim=manifest.dim) as writer:
        [new] = writer.allocate(1)
        row = Row(id=new, path="new.jpg", content_hash="new", size=1, mtime_ns=1)
        writer.commit([row], np.eye(manifest.dim, dtype=np.float32)[:1])
    after = Snapshot(index)
    assert schema_of(index) == SCHEMA_VERSION
    assert after.live_ids.tolist() == [*ids, new]
    assert [each["path"] for each in after.rows(ids)] == paths
    np.testing.assert_array_equal(after.vectors(ids), vectors)
    assert verify_index(index, full=True).damaged == ()


def test_schema_5_opens_for_ever(tmp_path: Path) -> None:
    """Images and a table of captions, a further column, and an approximate index without the newest rows."""
    snapshot = Snapshot(Path(shutil.copytree(FIXTURES / "v5", tmp_path / "v5")))
    manifest, vectors = snapshot.manifest, clustered(5, 60)
    assert (manifest.live, manifest.dead, manifest.base) == (59, 1, "/tmp/fix5/base")
    assert manifest.sources == (
        SourceEntry(uri="photos", exclude=("thumbs/",)),
        SourceEntry(uri="captions.csv", modality="text", options={"kind": "table", "text": "caption"}),
    )
    dog, text = snapshot.rows([3, 59])
    assert (dog["caption"], dog["rating"], dog["keywords"], dog["stars"]) == ("a dog", 5, ["dog", "snow"], 3)
    assert (text["modality"], text["text"], text["stars"]) == ("text", "caption 59", None)
    assert Filter(snapshot).ids("modality = 'text' OR stars < 3").tolist() == [0, 2, 58, 59]
    assert [(each["path"], each["corpus"]) for each in snapshot.failures()] == [("photos/bad.jpg", "photos")]
    assert manifest.ann is not None
    assert (manifest.ann.factory, manifest.ann.rows, manifest.ann.shards) == ("IVF1,SQfp16", 58, ("000001",))
    _, found = SearchIndex(snapshot).search(vectors, k=1)
    assert [found[number, 0] for number in range(60) if number != 1] == snapshot.live_ids.tolist()
