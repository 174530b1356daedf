"""The approximate index: built by size, kept in step, masked and rebuilt; never a wrong id."""

from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.engine import SearchIndex
from llm2clip_search.errors import StoreError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.vectorindex.exact import exact_search
from llm2clip_search.vectorindex.kinds import Hnsw, Ivf, kind_of
from tests.support.encoders import ColourEncoder
from tests.support.vectors import DIM, MODEL, add, clustered


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_approximate_index_through_its_life(tmp_path: Path, colours: ColourEncoder, kind: str) -> None:
    config = AnnConfig(kind=kind)  # type: ignore[arg-type]
    queries = clustered(99, 50)
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 3000))
        first = build_ann(writer, config)
        assert first is not None
        assert (first.rows, first.trained_on) == (3000, 3000)
        assert first.recall_at_10 > 0.9
        assert build_ann(writer, config) == first  # nothing to do

        add(writer, clustered(2, 500), removed=tuple(range(0, 3000, 3)))
        second = build_ann(writer, config)
        assert second is not None
        assert (second.rows, second.trained_on) == (3500, 3000)  # added to, not built anew
    index = SearchIndex(Snapshot(tmp_path), colours)
    scores, ids = index.search(queries, k=10)
    exact_scores, exact_ids = exact_search(index.snapshot, queries, 10)
    assert set(ids.ravel().tolist()) <= set(index.snapshot.live_ids.tolist())
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(ids, exact_ids, strict=True)])
    assert recall > 0.9
    same = ids[:, 0] == exact_ids[:, 0]
    np.testing.assert_allclose(scores[same, 0], exact_scores[same, 0], atol=1e-6)  # ranked again: true cosines

    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(3, 4000))
        third = build_ann(writer, config)
        assert third is not None
        assert (third.rows, third.trained_on) == (6500, 6500)  # more than doubled: built anew, the dead left out
        assert build_ann(writer, AnnConfig(kind="flat")) is None
        assert writer.manifest.ann is None


def test_a_renamed_row_is_not_added_twice(tmp_path: Path) -> None:
    vectors = clustered(1, 500)
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, vectors)
        build_ann(writer, AnnConfig(kind="hnsw"))
        row = Row(id=7, path="moved.jpg", content_hash="7", size=7, mtime_ns=0, width=7, height=1)
        writer.commit([row], vectors[7:8])
        entry = build_ann(writer, AnnConfig(kind="hnsw"))
        assert entry is not None
        assert entry.rows == 500


def test_a_filtered_approximate_search_finds_matches_only(
    tmp_path: Path, colours: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the gathering limit low, the selector does the work; results are the matches, best first."""
    from llm2clip_search.engine import plan

    monkeypatch.setattr(plan, "GATHER_LIMIT", 10)
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 3000))
        build_ann(writer, AnnConfig(kind="hnsw"))
    index = SearchIndex(Snapshot(tmp_path), colours)
    result = index.query("anything", where="width < 10", k=20)
    assert result.plan.strategy == "approximate over matches"
    assert result.plan.matches == 300
    matches = np.array([i for i in range(3000) if i % 100 < 10])
    _, expected = exact_search(index.snapshot, colours.encode_texts(["anything"]), 20, ids=matches)
    assert {hit.id % 100 < 10 for hit in result.hits} == {True}
    assert len(np.intersect1d([hit.id for hit in result.hits], expected)) >= 18
    assert index.query("anything", k=5).plan.strategy == "approximate"


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_gpu_plan_gives_what_the_cpu_gives(
    tmp_path: Path, colours: ColourEncoder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With a stand-in for the copy to a GPU: ids, order and lists looked into; filters stay on the CPU."""
    import faiss

    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 2000), removed=())
        build_ann(writer, AnnConfig(kind=kind))  # type: ignore[arg-type]
    cpu = SearchIndex(Snapshot(tmp_path), colours)
    expected = [hit.id for hit in cpu.query("anything", k=20).hits]
    copied: list[object] = []

    def to_gpu(index: object) -> object:
        copied.append(index)
        return index

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_gpu, raising=False)
    monkeypatch.setattr("llm2clip_search.engine.search.gpu_count", lambda: 1)
    gpu = SearchIndex(Snapshot(tmp_path), colours)
    result = gpu.query("anything", k=20)
    assert result.plan.device == "gpu"
    assert [hit.id for hit in result.hits] == expected
    assert len(copied) == 1
    assert gpu.query("anything", k=20, where="width < 50").plan.device == "cpu"
    assert len(gpu.query("anything", k=5000).hits) == 2000
    assert len(cpu.query("anything", k=5000).hits) == 2000


def test_the_kind_follows_the_size() -> None:
    config = AnnConfig()
    assert config.kind_for(99_999) is None
    assert config.kind_for(100_000) == Hnsw()
    assert config.kind_for(1_000_000) == Ivf(lists=8000)
    assert AnnConfig(kind="ivf").kind_for(390) == Ivf(lists=10)
    assert AnnConfig(kind="hnsw").kind_for(0) is None


@pytest.mark.parametrize(("kind", "factory"), [(Hnsw(), "IDMap2,HNSW32,Flat"), (Ivf(lists=8000), "IVF8000,SQfp16")])
def test_a_kind_is_read_back_from_what_manifests_name(kind: Hnsw | Ivf, factory: str) -> None:
    assert kind.factory == factory
    assert kind_of(factory) == kind
    with pytest.raises(StoreError, match="not a kind of approximate index"):
        kind_of(factory.replace("F", "G"))


def test_deletions_and_another_kind_build_anew_without_new_shards(tmp_path: Path) -> None:
    """``--ann ivf`` on an index with HNSW is heard; a graph that is mostly dead is not kept; nor one that is lost."""
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 1000))
        factories = [build_ann(writer, AnnConfig(kind=kind)) for kind in ("hnsw", "ivf", "hnsw")]
        assert [entry is not None and entry.factory[:4] for entry in factories] == ["IDMa", "IVF2", "IDMa"]
        writer.commit(removed=range(499))
        kept = build_ann(writer, AnnConfig(kind="hnsw"))
        assert kept == factories[2]  # just over half is alive
        writer.commit(removed=range(499, 502))
        entry = build_ann(writer, AnnConfig(kind="hnsw"))
        assert entry is not None
        assert (entry.rows, entry.trained_on) == (498, 498)
        (tmp_path / "ann" / entry.name).unlink()
        again = build_ann(writer, AnnConfig(kind="hnsw"))
        assert again is not None
        assert again.name != entry.name
        assert (tmp_path / "ann" / again.name).is_file()
    with Writer.open(tmp_path, model=MODEL, dim=DIM):
        assert [path.name for path in (tmp_path / "ann").iterdir()] == [again.name]


def test_a_damaged_approximate_index_is_told(tmp_path: Path, colours: ColourEncoder) -> None:
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 500))
        entry = build_ann(writer, AnnConfig(kind="hnsw"))
        assert entry is not None
        (tmp_path / "ann" / entry.name).write_bytes(b"none of FAISS's")
        with pytest.raises(StoreError, match=r"cannot be read by FAISS"):
            SearchIndex(Snapshot(tmp_path), colours).query("anything")
        add(writer, clustered(2, 10))
        with pytest.raises(StoreError, match=r"cannot be read by FAISS"):
            build_ann(writer, AnnConfig(kind="hnsw"))


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_deleted_images_never_come_back(
    tmp_path: Path, colours: ColourEncoder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """They are still in the graph or the lists; neither plain nor filtered searches show them, whatever ``k``."""
    from llm2clip_search.engine import plan

    monkeypatch.setattr(plan, "GATHER_LIMIT", 10)
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 2000))
        build_ann(writer, AnnConfig(kind=kind))  # type: ignore[arg-type]
        dead = set(range(0, 2000, 3))
        writer.commit(removed=dead)
        entry = build_ann(writer, AnnConfig(kind=kind))  # type: ignore[arg-type]
        assert entry is not None
        assert entry.rows == 2000
    index = SearchIndex(Snapshot(tmp_path), colours)
    for caption in ("one", "two", "three"):
        everything = index.query(caption, k=40)
        assert everything.plan.strategy == "approximate"
        assert len(everything.hits) == 40
        filtered = index.query(caption, k=40, where="width < 50 OR width IS NULL")
        assert filtered.plan.strategy == "approximate over matches"
        assert {hit.metadata["width"] < 50 for hit in filtered.hits} == {True}
        for result in (everything, filtered):
            assert not dead & {hit.id for hit in result.hits}
            scores = [hit.score for hit in result.hits]
            stored = index.snapshot.vectors([hit.id for hit in result.hits])
            np.testing.assert_allclose(scores, stored @ colours.encode_texts([caption])[0], atol=1e-5)
            assert scores == sorted(scores, reverse=True)
