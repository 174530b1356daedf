"""The scan of float16 vectors against a full comparison: the same ranking, ties, deletions and filters included."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2clip_search.base.vectors import unit
from llm2clip_search.engine import SearchIndex
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.vectorindex import exact
from llm2clip_search.vectorindex.exact import ExactIndex, exact_search
from llm2clip_search.vectorindex.float16_scan import Float16Scan, is_available
from tests.support.vectors import DIM, MODEL


def write(folder: Path, vectors: np.ndarray, *, shard: int, removed: np.ndarray) -> Snapshot:
    with Writer.open(folder, model=MODEL, dim=vectors.shape[1]) as writer:
        for start in range(0, len(vectors), shard):
            part = vectors[start : start + shard]
            ids = writer.allocate(len(part))
            rows = [Row(id=i, path=str(i), content_hash="", size=0, mtime_ns=0, width=i, height=1) for i in ids]
            writer.commit(rows, part)
        writer.commit(removed=removed.tolist())
    return Snapshot(folder)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(50, 400),
    shard=st.integers(20, 200),
    k=st.integers(1, 12),
    queries=st.integers(1, 4),
    levels=st.sampled_from([2, 3, 1000]),
    dead=st.sampled_from([0.0, 0.3]),
    share=st.sampled_from([None, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_a_scan_ranks_as_a_full_comparison_does(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    shard: int,
    k: int,
    queries: int,
    levels: int,
    dead: float,
    share: float | None,
    seed: int,
) -> None:
    """Vectors of few levels have many equal scores, more than a scan's slack holds."""
    assert is_available()
    generator = np.random.default_rng(seed)
    vectors = unit(generator.integers(0, levels, (rows, 6)) + np.array([1.0, 0, 0, 0, 0, 0]))
    removed = np.flatnonzero(generator.random(rows) < dead)
    snapshot = write(tmp_path_factory.mktemp("scan"), vectors, shard=shard, removed=removed)
    asked = unit(generator.integers(0, levels, (queries, 6)) + np.array([1.0, 0, 0, 0, 0, 0]))
    allowed = None if share is None else snapshot.live_ids[generator.random(len(snapshot.live_ids)) < share]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "MANY_ROWS", 0)
        scores, ids = ExactIndex(snapshot, len(snapshot.live_ids)).search(asked, k, allowed=allowed)
    expected_scores, expected = exact_search(snapshot, asked, k, ids=allowed)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    stored = snapshot.vectors(range(rows)).astype(np.float64)
    for query, found, wanted in zip(asked.astype(np.float64), ids, expected, strict=True):
        assert len(set(found.tolist())) == len(found)
        # The last bit of a float32 score depends on how many vectors were multiplied at once.
        np.testing.assert_allclose(stored[found] @ query, stored[wanted] @ query, atol=1e-6)
        for first, second in pairwise(found.tolist()):
            assert first < second or not np.array_equal(stored[first], stored[second]), "copies are ranked by id"


def test_a_scan_reads_the_mapped_file(tmp_path: Path) -> None:
    """What is on disk is what is compared: no copy was made when the scan was."""
    path = tmp_path / "vectors.npy"
    np.save(path, unit(np.random.default_rng(0).normal(size=(100, DIM))).astype(np.float16))
    mapped = np.load(path, mmap_mode="r+")
    scan = Float16Scan(mapped)
    query = unit(np.random.default_rng(1).normal(size=(1, DIM)))
    mapped[42] = query[0]
    scores, rows = scan.search(query, 1, None)
    assert rows[0, 0] == 42
    assert scores[0, 0] == pytest.approx(1.0, abs=1e-3)
    _, others = scan.search(query, 200, np.array([3, 42, 99]))
    assert sorted(others[0][others[0] >= 0].tolist()) == [3, 42, 99]


def test_without_a_scan_the_answer_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(500, DIM)))
    snapshot = write(tmp_path, vectors, shard=200, removed=np.array([7]))
    monkeypatch.setattr(exact, "MANY_ROWS", 0)
    with_scan = SearchIndex(snapshot).search(vectors[:3], k=5)
    monkeypatch.setattr(exact, "is_available", lambda: False)
    without = SearchIndex(snapshot).search(vectors[:3], k=5)
    np.testing.assert_array_equal(with_scan[1], without[1])


def test_a_query_alone_leaves_the_threads_of_faiss_as_they_were() -> None:
    faiss = pytest.importorskip("faiss")
    vectors = unit(np.random.default_rng(0).standard_normal((100, 8))).astype(np.float16)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        Float16Scan(vectors).search(vectors[:1].astype(np.float32), 3, None)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
