"""What a manifest that was made anew from the shards says of the index."""

import shutil
from pathlib import Path

import pytest

from llm2clip_search.engine import SearchIndex
from llm2clip_search.indexers import publish_index, repair_index
from llm2clip_search.store import Manifest, Snapshot, Writer
from llm2clip_search.store.compaction import compact
from tests.support.encoders import ColourEncoder
from tests.support.serving import DIM, MODEL, commit, engine_of, rows_of, vectors_of


def test_sources_keep_their_modality(tmp_path: Path) -> None:
    index = tmp_path / ".llm2clip"
    with Writer.open(index, model=MODEL, dim=DIM) as writer:
        writer.commit(rows_of([0, 1], corpus="mixed"), vectors_of([0, 1]))
        writer.commit(rows_of([2, 3], corpus="mixed", modality="text", text="a dog"), vectors_of([2, 3]))
        writer.commit(rows_of([4], corpus="notes", modality="text", text="a cat"), vectors_of([4]))
    (index / "manifest.json").unlink()
    repair_index(index, encoder=ColourEncoder)
    sources = [(source.uri, source.modality) for source in Manifest.read(index).sources]
    assert sources == [("mixed", "image"), ("mixed", "text"), ("notes", "text")]
    search = SearchIndex(Snapshot(index), ColourEncoder())
    assert sorted(hit.id for hit in search.query("a dog", k=9, find="texts").hits) == [2, 3, 4]
    assert sorted(hit.id for hit in search.query("a dog", k=9, find="images").hits) == [0, 1]


@pytest.mark.parametrize("damaged", [True, False])
def test_it_is_not_an_older_copy_of_what_was_published(tmp_path: Path, damaged: bool) -> None:
    for number in range(3):
        index = commit(tmp_path / "photos", [number])
    commit(tmp_path / "photos", [9])
    commit(tmp_path / "photos", [], removed=[9])
    with Writer.open(index, model=MODEL, dim=DIM) as writer:
        compact(writer, everything=True)  # nothing but the manifest says any more that id 9 was given
    engine = engine_of("memory", tmp_path)
    publish_index(index, engine)
    before = Manifest.read(index)
    shutil.rmtree(index / "readers")  # the leases of processes that have ended
    if damaged:
        text = (index / "manifest.json").read_text()
        (index / "manifest.json").write_text(text[: len(text) // 2])
    else:
        (index / "manifest.json").unlink()
    repair_index(index, encoder=ColourEncoder)
    after = Manifest.read(index)
    assert after.generation > before.generation
    if damaged:
        assert after.next_id >= before.next_id
    commit(tmp_path / "photos", [10])
    assert publish_index(index, engine).added == 1
