"""A full verification looks at what files hold: their checksums also fit what was wrong when it was written."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Manifest, Writer, verify_index
from llm2clip_search.store.repair import repair_files
from tests.support.stores import MODEL, fill, row, vectors
from tests.support.vectors import DIM, add, clustered

FIXTURES = Path(__file__).parent / "fixtures"


def reasons(folder: Path) -> dict[str, str]:
    assert verify_index(folder).damaged == ()
    return {file.path: file.reason for file in verify_index(folder, full=True).damaged}


def test_a_sound_index_is_sound(tmp_path: Path) -> None:
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 300))
        add(writer, clustered(2, 20), removed=(3, 4))
        build_ann(writer, AnnConfig(kind="hnsw"))
    assert reasons(tmp_path) == {}


def test_vectors_of_another_length_are_named(tmp_path: Path) -> None:
    with Writer.open(tmp_path, model=MODEL, dim=4) as writer:
        writer.commit([row(0), row(1)], np.array([[1, 0, 0, 0], [0, 0.75, 0, 0]], dtype=np.float32))
    assert reasons(tmp_path) == {"shards/000001/embeddings.npy": "row 1 has length 0.75, not 1"}


def test_an_id_that_two_live_rows_have_is_named(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1)
    with Writer.open(tmp_path, model=MODEL, dim=4) as writer:
        writer.commit([row(1, "moved.jpg")], vectors(1))
    replace(Manifest.read(tmp_path), tombstones=None, tombstones_sha256=None, live=3, dead=0).write(tmp_path)
    assert reasons(tmp_path) == {"shards/000002/metadata.parquet": "has id 1, which another shard has as well"}


def test_ids_that_the_manifest_does_not_give_are_named(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1)
    manifest = Manifest.read(tmp_path)
    replace(manifest, shards=(replace(manifest.shards[0], last_id=7),)).write(tmp_path)
    reason = "has ids 0 to 1, but the manifest says 0 to 7"
    assert reasons(tmp_path) == {"shards/000001/metadata.parquet": reason}
    replace(manifest, next_id=1).write(tmp_path)
    assert reasons(tmp_path) == {"shards/000001/metadata.parquet": "has id 1, but the next one is 1"}


def test_an_approximate_index_without_rows_that_it_shall_cover_is_named(tmp_path: Path) -> None:
    config = AnnConfig(kind="hnsw")
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 300))
        entry = build_ann(writer, config)
        assert entry is not None
        add(writer, clustered(2, 20))
        writer.set_ann(replace(entry, shards=tuple(shard.name for shard in writer.snapshot.shards)), config)
    assert reasons(tmp_path) == {f"ann/{entry.name}": "lacks 20 rows, of which the first has id 300"}
    repair_files(tmp_path)
    assert Manifest.read(tmp_path).ann is None  # until it is built again
    assert reasons(tmp_path) == {}


def test_files_of_earlier_versions_without_a_checksum_are_named(tmp_path: Path) -> None:
    """They can still be read, and nobody can tell whether they are as they were written."""
    folder = Path(shutil.copytree(FIXTURES / "v2-hnsw", tmp_path / "v2"))
    found = verify_index(folder, full=True)
    assert (found.without_checksum, found.damaged) == (("ann/00000003.faiss",), ())
