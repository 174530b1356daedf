"""What a manifest that was made anew from the shards says of the index."""

from pathlib import Path

from llm2clip_search.engine import SearchIndex
from llm2clip_search.indexers import repair_index
from llm2clip_search.store import Manifest, Snapshot, Writer
from tests.support.encoders import ColourEncoder
from tests.support.serving import DIM, MODEL, rows_of, vectors_of


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
