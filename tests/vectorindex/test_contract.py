"""What every vector index promises, and what each may refuse by its capabilities."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.base.vectors import unit
from llm2clip_search.errors import StoreError
from llm2clip_search.vectorindex.exact import ExactIndex, exact_search, rank_again
from llm2clip_search.vectorindex.faiss_index import FaissGpuIndex, FaissIndex
from llm2clip_search.vectorindex.index import VectorIndex
from llm2clip_search.vectorindex.kinds import Hnsw, Ivf
from llm2clip_search.vectorindex.policy import AnnConfig
from llm2clip_search.vectorindex.recall import measure_recall, midpoint_queries
from tests.support.vectors import DIM, clustered


class Part:
    """Some of the vectors, as one shard holds them."""

    def __init__(self, vectors: np.ndarray, start: int) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float16)
        self.ids = 2 * (start + np.arange(len(vectors)))
        self.dead = np.empty(0, dtype=np.int64)
        self.live_rows = np.arange(len(vectors))

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions = np.flatnonzero(np.isin(ids, self.ids))
        return positions, np.searchsorted(self.ids, ids[positions])


class Stored:
    """Vectors in memory, in blocks as a store gives them; ids are even numbers."""

    def __init__(self, vectors: np.ndarray, *, block: int = 300) -> None:
        self.all, self.block = vectors, block
        self.live_ids = 2 * np.arange(len(vectors))

    def blocks(self, ids: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self.all), self.block):
            rows = np.arange(start, min(start + self.block, len(self.all)))
            if ids is not None:
                rows = rows[np.isin(2 * rows, ids)]
            if len(rows):
                yield 2 * rows, self.all[rows]

    @property
    def shards(self) -> list["Part"]:
        return [Part(self.all[start : start + self.block], start) for start in range(0, len(self.all), self.block)]

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        found: np.ndarray = self.all[np.array(ids) // 2]
        return found


STORED = Stored(clustered(1, 1000))


def exact() -> VectorIndex:
    return ExactIndex(STORED, len(STORED.all))


def faiss(kind: Hnsw | Ivf) -> FaissIndex:
    index = FaissIndex.create(kind, dim=DIM)
    if index.needs_training:
        index.train(STORED.all)
    for ids, vectors in STORED.blocks():
        index.add(ids, vectors)
    return index


@pytest.fixture(scope="module", params=["exact", "hnsw", "ivf"])
def index(request: pytest.FixtureRequest) -> VectorIndex:
    made: dict[str, Callable[[], VectorIndex]] = {
        "exact": exact,
        "hnsw": lambda: faiss(Hnsw()),
        "ivf": lambda: faiss(Ivf(lists=20)),
    }
    return made[str(request.param)]()


def test_a_stored_vector_finds_itself(index: VectorIndex) -> None:
    scores, ids = index.search(STORED.all[:50], 3)
    assert len(index) == 1000
    assert scores.shape == ids.shape == (50, 3)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    assert ids[:, 0].tolist() == STORED.live_ids[:50].tolist()
    np.testing.assert_allclose(scores[:, 0], 1.0, atol=2e-3)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_only_allowed_ids_are_found(index: VectorIndex) -> None:
    assert index.capabilities.filters
    allowed = STORED.live_ids[::7]
    for _ in range(2):  # the second call may reuse what the first prepared
        _, ids = index.search(STORED.all[:20], 10, allowed=allowed, effort=4.0)
        assert np.isin(ids[ids >= 0], allowed).all()
    _, others = index.search(STORED.all[:20], 10, allowed=STORED.live_ids[1::7], effort=4.0)
    assert not np.isin(others[others >= 0], allowed).any()


def test_more_effort_finds_no_less(index: VectorIndex) -> None:
    queries = midpoint_queries(STORED, seed=3, count=50)
    _, expected = exact_search(STORED, queries, 10)
    recalls = [
        np.mean([np.isin(want, have).mean() for want, have in zip(expected, found, strict=True)])
        for found in (index.search(queries, 10, effort=effort)[1] for effort in (1 / 16, 1.0, 8.0))
    ]
    assert recalls[0] <= recalls[1] + 0.02
    assert recalls[2] == 1.0 if index.capabilities.exact else recalls[2] > 0.95
    assert measure_recall(STORED, index, seed=3) > 0.9


def test_what_is_writable_is_saved_and_loaded(index: VectorIndex, tmp_path: Path) -> None:
    if not index.capabilities.writable:
        with pytest.raises(TypeError, match="store"):
            index.save(tmp_path / "x")
        with pytest.raises(TypeError, match="store"):
            index.add(STORED.live_ids, STORED.all)
        return
    assert isinstance(index, FaissIndex)
    index.save(tmp_path / "x")
    loaded = FaissIndex.load(index.kind, tmp_path / "x")
    for before, after in zip(index.search(STORED.all, 5), loaded.search(STORED.all, 5), strict=True):
        np.testing.assert_array_equal(before, after)
    (tmp_path / "x").write_bytes(b"nothing of FAISS's")
    with pytest.raises(StoreError, match="x cannot be read by FAISS"):
        FaissIndex.load(index.kind, tmp_path / "x")


def test_a_gpu_copy_refuses_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy itself is stood in for: no GPU is needed to be told that its search would ignore a filter."""
    import faiss as library

    monkeypatch.setattr(library, "index_cpu_to_all_gpus", lambda index: index, raising=False)
    flat = FaissGpuIndex.flat(STORED, dim=DIM)
    assert flat.capabilities.exact
    assert not flat.capabilities.filters
    assert len(flat) == 1000
    assert flat.search(STORED.all[:9], 1)[1][:, 0].tolist() == STORED.live_ids[:9].tolist()
    with pytest.raises(TypeError, match="ignore selectors"):
        flat.search(STORED.all[:1], 1, allowed=STORED.live_ids)
    with pytest.raises(TypeError, match="GPU copy"):
        flat.add(STORED.live_ids, STORED.all)
    with pytest.raises(TypeError, match="GPU copy"):
        flat.save(tmp_path / "x")


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 60),
    queries=st.integers(0, 5),
    k=st.integers(1, 80),
    block=st.integers(1, 30),
    seed=st.integers(0, 1000),
    share=st.sampled_from([None, 0.0, 0.3, 1.0]),
)
def test_exact_search_equals_a_full_sort(
    rows: int, queries: int, k: int, block: int, seed: int, share: float | None
) -> None:
    """Coarse vectors give many equal scores, which are ordered by id whatever the blocks are."""
    generator = np.random.default_rng(seed)
    stored = Stored(unit(generator.integers(-1, 2, (rows, 4)) + np.array([0.0, 0.0, 0.0, 2.0])), block=block)
    asked = unit(generator.integers(-1, 2, (queries, 4)) + np.array([0.0, 0.0, 0.0, 2.0]))
    ids = None if share is None else stored.live_ids[generator.random(rows) < share]
    scores, found = exact_search(stored, asked, k, ids=ids)
    allowed = stored.live_ids if ids is None else ids
    for row in range(queries):
        reference = asked[row] @ stored.all[allowed // 2].T
        best = np.lexsort((allowed, -reference))[:k]
        assert np.allclose(scores[row], reference[best], atol=1e-6)
        assert found[row].tolist() == allowed[best].tolist() or np.allclose(
            reference[np.searchsorted(allowed, found[row])], reference[best], atol=1e-6
        )


def test_candidates_are_ranked_by_their_stored_vectors() -> None:
    queries = STORED.all[:2]
    candidates = np.array([[6, 0, 2, -1], [-1, -1, 2, -1]])
    scores, ids = rank_again(STORED, queries, candidates, 3)
    assert ids[0, 0] == 0
    assert set(ids[0].tolist()) == {0, 2, 6}
    assert ids[1].tolist() == [2, -1, -1]
    assert scores[1].tolist() == [pytest.approx(1.0), -2.0, -2.0]


@pytest.mark.parametrize(
    ("rows", "vectors", "trained_on", "kept"),
    [(1000, 1000, 1000, True), (2000, 2000, 1000, True), (2001, 2001, 1000, False), (499, 1000, 1000, False)],
)
def test_an_index_is_kept_until_it_has_grown_or_died(rows: int, vectors: int, trained_on: int, kept: bool) -> None:
    config = AnnConfig(kind="hnsw")
    assert config.keeps(Hnsw(), rows=rows, vectors=vectors, trained_on=trained_on) is kept
    assert not config.keeps(Ivf(lists=10), rows=rows, vectors=vectors, trained_on=trained_on)
