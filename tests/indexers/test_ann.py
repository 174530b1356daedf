"""The approximate index: built by size, kept in step, masked and rebuilt; never a wrong id."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.engine import SearchIndex
from llm2clip_search.errors import DamagedError, QueryError, StoreError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Row, Snapshot, Writer, verify_index
from llm2clip_search.store.compaction import compact
from llm2clip_search.vectorindex.exact import exact_search
from llm2clip_search.vectorindex.policy import AnnName
from tests.support.encoders import ColourEncoder
from tests.support.stores import check_intact
from tests.support.vectors import DIM, MODEL, add, clustered, prefer_approximate


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivfpq", "ivfrabitq"])
def test_an_approximate_index_through_its_life(tmp_path: Path, colours: ColourEncoder, kind: AnnName) -> None:
    config = AnnConfig(kind=kind, tail_rows=100)
    queries = clustered(99, 50)
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 3000))
        first = build_ann(writer, config)
        assert first is not None
        assert (first.rows, first.trained_on) == (3000, 3000)
        assert max(point.recall for point in first.points) > 0.99
        assert build_ann(writer, config) == first  # nothing to do

        add(writer, clustered(2, 500), removed=tuple(range(0, 3000, 3)))
        second = build_ann(writer, config)
        assert second is not None
        assert (second.rows, second.trained_on) == (3500, 3000)  # added to, not built anew
        prefer_approximate(writer)
    index = SearchIndex(Snapshot(tmp_path), colours)
    scores, ids = index.search(queries, k=10)
    exact_scores, exact_ids = exact_search(index.snapshot, queries, 10)
    assert set(ids.ravel().tolist()) <= set(index.snapshot.live_ids.tolist())
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(ids, exact_ids, strict=True)])
    assert recall > 0.9
    same = ids[:, 0] == exact_ids[:, 0]
    np.testing.assert_allclose(scores[same, 0], exact_scores[same, 0], atol=1e-6)  # ranked again: true cosines

    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        newest = clustered(3, 4000)
        add(writer, newest)
        _, found = SearchIndex(Snapshot(tmp_path)).search(newest[:9], k=1)
        assert found[:, 0].tolist() == list(range(3500, 3509))  # searched before they are added
        third = build_ann(writer, config)
        assert third is not None
        assert (third.rows, third.trained_on) == (6500, 6500)  # more than doubled: built anew, the dead left out
        assert build_ann(writer, AnnConfig(kind="flat")) is None
        assert writer.manifest.ann is None


def test_a_renamed_row_is_not_added_twice(tmp_path: Path) -> None:
    vectors = clustered(1, 500)
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, vectors)
        config = AnnConfig(kind="hnsw", tail_rows=0)
        build_ann(writer, config)
        row = Row(id=7, path="moved.jpg", content_hash="7", size=7, mtime_ns=0, width=7, height=1)
        writer.commit([row], vectors[7:8])
        entry = build_ann(writer, config)
        assert entry is not None
        assert entry.rows == 500


def test_renamed_rows_are_not_added_twice_after_a_compaction(tmp_path: Path) -> None:
    """Compaction drops the rows that they had; the index itself knows their ids."""
    config, vectors = AnnConfig(kind="ivf", tail_rows=0), clustered(1, 500)
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, vectors)
        build_ann(writer, config)
        moved = [
            Row(id=i, path=f"moved/{i}.jpg", content_hash=str(i), size=i, mtime_ns=0, width=i % 100, height=1)
            for i in range(200)
        ]
        writer.commit(moved, vectors[:200])
        compact(writer, everything=True)
        entry = build_ann(writer, config)
    assert entry is not None
    assert entry.rows == 500


def test_a_smaller_limit_of_memory_is_heard(tmp_path: Path) -> None:
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 3000))
        entries = [build_ann(writer, AnnConfig(kind="ivfrabitq", memory=memory)) for memory in (10**6, 95_000)]
    assert [entry.factory[-1] for entry in entries if entry] == ["2", "1"]


def test_a_filtered_approximate_search_finds_matches_only(tmp_path: Path, colours: ColourEncoder) -> None:
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 3000))
        build_ann(writer, AnnConfig(kind="ivf"))
        prefer_approximate(writer)
    index = SearchIndex(Snapshot(tmp_path), colours)
    result = index.query("anything", where="width < 10", k=10)
    assert result.plan.strategy == "approximate over matches"
    assert result.plan.matches == 300
    matches = np.array([i for i in range(3000) if i % 100 < 10])
    _, expected = exact_search(index.snapshot, colours.encode_texts(["anything"]), 10, ids=matches)
    assert {hit.id % 100 < 10 for hit in result.hits} == {True}
    assert len(np.intersect1d([hit.id for hit in result.hits], expected)) >= 9
    assert index.query("anything", k=5).plan.strategy == "approximate"


def test_deletions_and_another_kind_build_anew_without_new_shards(tmp_path: Path) -> None:
    """``--ann ivf`` on an index with HNSW is heard; a graph that is mostly dead is not kept; nor one that is lost."""
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 1000))
        entries = [build_ann(writer, AnnConfig(kind=kind)) for kind in ("ivf", "hnsw", "ivf")]
        assert [entry is not None and entry.factory[:4] for entry in entries] == ["IVF2", "IDMa", "IVF2"]
        writer.commit(removed=range(499))
        kept = build_ann(writer, AnnConfig(kind="ivf"))
        assert kept == entries[2]  # just over half is alive
        writer.commit(removed=range(499, 502))
        entry = build_ann(writer, AnnConfig(kind="ivf"))
        assert entry is not None
        assert (entry.rows, entry.trained_on) == (498, 498)
        (tmp_path / "ann" / entry.name).unlink()
        again = build_ann(writer, AnnConfig(kind="ivf"))
        assert again is not None
        assert again.name != entry.name
        assert (tmp_path / "ann" / again.name).is_file()
    with Writer.open(tmp_path, model=MODEL, dim=DIM):
        assert [path.name for path in (tmp_path / "ann").iterdir()] == [again.name]


def test_an_index_of_other_vectors_is_built_again(
    tmp_path: Path, colours: ColourEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that FAISS cannot read, or that another index left there: a reader says so, the next run mends it."""
    with Writer.open(tmp_path / "other", model=MODEL, dim=DIM) as writer:
        add(writer, clustered(2, 400))
        other = build_ann(writer, AnnConfig(kind="hnsw"))
        assert other is not None
    foreign = (tmp_path / "other" / "ann" / other.name).read_bytes()
    for content in (b"none of FAISS's", foreign):
        folder = tmp_path / str(len(content))
        with Writer.open(folder, model=MODEL, dim=DIM) as writer:
            add(writer, clustered(1, 500))
            entry = build_ann(writer, AnnConfig(kind="hnsw"))
            assert entry is not None
            prefer_approximate(writer)
            (folder / "ann" / entry.name).write_bytes(content)
            with pytest.raises(DamagedError, match=r"\.faiss differs from what was committed") as caught:
                SearchIndex(Snapshot(folder), colours).query("anything")
            assert "repair" in caught.value.hint
            assert [file.reason for file in verify_index(folder).damaged] == ["differs from its checksum"]
            caplog.clear()
            assert build_ann(writer, AnnConfig(kind="hnsw")) is not None
            assert "is not the index of these images; it is rebuilt" in caplog.text
            prefer_approximate(writer)
        check_intact(Snapshot(folder))
        assert SearchIndex(Snapshot(folder), colours).query("anything").plan.strategy == "approximate"


@pytest.mark.parametrize("rows", [1, 2, 39])
@pytest.mark.parametrize("kind", ["auto", "hnsw", "ivf", "ivfrabitq"])
def test_the_smallest_collections_are_searched(tmp_path: Path, rows: int, kind: AnnName) -> None:
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, rows))
        entry = build_ann(writer, AnnConfig(kind=kind))
        assert (entry is None) == (kind == "auto")
        if entry is not None:
            prefer_approximate(writer)
    _, found = SearchIndex(Snapshot(tmp_path)).search(clustered(1, rows), k=5)
    assert found[:, 0].tolist() == list(range(rows))


def test_too_few_rows_and_too_little_memory_leave_the_index_as_it_was(tmp_path: Path) -> None:
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 39))
        before = writer.manifest
        with pytest.raises(StoreError, match="trained on at least 256 vectors, but there are 39"):
            build_ann(writer, AnnConfig(kind="ivfpq"))
        with pytest.raises(StoreError, match="the smallest, IVF1,SQfp16, takes"):
            build_ann(writer, AnnConfig(kind="ivf", memory=100))
        assert writer.manifest == before


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    vectors = clustered(1, 5)
    vectors[3, 2] = np.nan
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        with pytest.raises(StoreError, match=r"The vector of 3\.jpg is not finite; 1 of 5 are not"):
            add(writer, vectors)
        add(writer, clustered(1, 5))
    queries = np.full((2, DIM), np.inf, dtype=np.float32)
    queries[0] = clustered(1, 1)[0]
    with pytest.raises(QueryError, match="Vector 1 of 2 is not finite"):
        SearchIndex(Snapshot(tmp_path)).search(queries)


def test_zero_vectors_are_added_and_never_preferred(tmp_path: Path) -> None:
    vectors = clustered(1, 300)
    vectors[::3] = 0.0
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, vectors)
        assert build_ann(writer, AnnConfig(kind="ivfrabitq")) is not None
        prefer_approximate(writer)
    scores, found = SearchIndex(Snapshot(tmp_path)).search(clustered(1, 300)[1:2], k=10)
    assert found[0, 0] == 1
    assert (found[0] % 3 != 0).all()
    assert (scores > 0).all()


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.0003, 1.0), correlated=st.booleans(), k=st.integers(1, 20), seed=st.integers(0, 10**6))
@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivfrabitq"])
def test_any_filter_keeps_the_promised_recall(
    filtered: dict[str, SearchIndex], kind: str, share: float, correlated: bool, k: int, seed: int
) -> None:
    """Matches drawn at random, or the rows farthest from or nearest to some direction, from one row to all."""
    index = filtered[kind]
    generator = np.random.default_rng(seed)
    rows, queries = len(index), clustered(seed, 100)
    count = max(1, round(share * rows))
    if correlated:
        order = np.argsort(index.snapshot.vectors(range(rows)) @ clustered(seed + 1, 1)[0])
        matches = np.sort(order[:count])
    else:
        matches = np.sort(generator.choice(rows, count, replace=False))
    _, expected = exact_search(index.snapshot, queries, k, ids=matches)
    _, found = index.search(queries, k=k, allowed=matches)
    hits = sum(len(np.intersect1d(want, have)) for want, have in zip(expected, found, strict=True))
    assert hits / expected.size >= index.recall - 0.05


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SearchIndex]:
    """Three thousand rows by each kind of index; the recall aimed at is 0.95."""
    made: dict[str, SearchIndex] = {}
    names: tuple[AnnName, ...] = ("hnsw", "ivf", "ivfrabitq")
    for kind in names:
        folder = tmp_path_factory.mktemp(kind)
        with Writer.open(folder, model=MODEL, dim=DIM) as writer:
            add(writer, clustered(1, 3000))
            build_ann(writer, AnnConfig(kind=kind))
            prefer_approximate(writer)
        made[kind] = SearchIndex(Snapshot(folder))
    return made


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivfrabitq"])
def test_deleted_images_never_come_back(tmp_path: Path, colours: ColourEncoder, kind: AnnName) -> None:
    """They are still in the graph or the lists; neither plain nor filtered searches show them, whatever ``k``."""
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 2000))
        build_ann(writer, AnnConfig(kind=kind))
        dead = set(range(0, 2000, 6))
        writer.commit(removed=dead)
        entry = build_ann(writer, AnnConfig(kind=kind))
        assert entry is not None
        assert entry.rows == 2000
        prefer_approximate(writer)
    index = SearchIndex(Snapshot(tmp_path), colours)
    for caption in ("one", "two", "three"):
        everything = index.query(caption, k=40)
        assert everything.plan.strategy == "approximate"
        assert len(everything.hits) == 40
        filtered = index.query(caption, k=40, where="width < 50 OR width IS NULL")
        assert filtered.plan.strategy == ("exact" if kind == "hnsw" else "approximate") + " over matches"
        assert {hit.metadata["width"] < 50 for hit in filtered.hits} == {True}
        for result in (everything, filtered):
            assert not dead & {hit.id for hit in result.hits}
            scores = [hit.score for hit in result.hits]
            stored = index.snapshot.vectors([hit.id for hit in result.hits])
            np.testing.assert_allclose(scores, stored @ colours.encode_texts([caption])[0], atol=1e-5)
            assert scores == sorted(scores, reverse=True)


def test_vectors_whose_shards_have_all_been_replaced_are_not_added_twice(tmp_path: Path) -> None:
    """Every file was touched: its row is in a later shard, under its id, and the shards of the index are gone."""
    vectors, config = clustered(1, 300), AnnConfig(kind="hnsw", tail_rows=0)
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, vectors)
        build_ann(writer, config)
        rows = [Row(id=i, path=f"{i}.png", content_hash=str(i), size=i, mtime_ns=1) for i in range(300)]
        writer.commit(rows, vectors)
        compact(writer)
        assert writer.manifest.ann is not None
        assert writer.manifest.ann.shards == ()
        entry = build_ann(writer, config)
    assert entry is not None
    assert entry.rows == 300
    assert verify_index(tmp_path, full=True).damaged == ()
