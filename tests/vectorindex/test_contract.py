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
from llm2clip_search.vectorindex.faiss_index import GraphIndex, create_index, load_index
from llm2clip_search.vectorindex.gpu import GpuFlatIndex, GpuListsIndex, build_cagra
from llm2clip_search.vectorindex.index import VectorIndex
from llm2clip_search.vectorindex.inverted_lists import InvertedListsIndex
from llm2clip_search.vectorindex.kinds import Cagra, Hnsw, IndexKind, Ivf, IvfPq, IvfRaBitQ, kind_of
from llm2clip_search.vectorindex.policy import AnnConfig, AnnName
from llm2clip_search.vectorindex.tuning import midpoint_queries, tune
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


def built(kind: IndexKind) -> GraphIndex | InvertedListsIndex:
    index = create_index(kind, dim=DIM)
    if isinstance(index, InvertedListsIndex):
        index.train(STORED.all)
    for ids, vectors in STORED.blocks():
        index.add(ids, vectors)
    return index


def cagra() -> GraphIndex:
    """A graph as cuVS leaves it on the CPU; FAISS can fill one without a GPU."""
    import faiss

    graph = faiss.IndexHNSWCagra(  # type: ignore[attr-defined]  # newer than the stubs
        DIM, 32, faiss.METRIC_INNER_PRODUCT
    )
    numbered = faiss.IndexIDMap2(graph)
    numbered.add_with_ids(STORED.all, STORED.live_ids)
    graph.base_level_only = True
    return GraphIndex(Cagra(degree=64), numbered)


INDICES: dict[str, Callable[[], VectorIndex]] = {
    "exact": exact,
    "hnsw": lambda: built(Hnsw()),
    "hnsw float32": lambda: built(Hnsw(codes="Flat")),
    "cagra": cagra,
    "ivf": lambda: built(Ivf(lists=20)),
    "ivf with a graph": lambda: built(Ivf(lists=20, graph=True)),
    "ivfrabitq": lambda: built(IvfRaBitQ(lists=20, bits=2)),
    "ivfrabitq with a graph": lambda: built(IvfRaBitQ(lists=20, bits=1, graph=True)),
    "ivfpq": lambda: built(IvfPq(lists=20, subquantizers=8)),
}
EXACT_CODES = ("exact", "hnsw", "hnsw float32", "cagra", "ivf", "ivf with a graph")


@pytest.fixture(scope="module", params=list(INDICES))
def index(request: pytest.FixtureRequest) -> VectorIndex:
    return INDICES[str(request.param)]()


def test_a_stored_vector_is_among_its_candidates(index: VectorIndex) -> None:
    scores, ids = index.search(STORED.all[:50], 30, effort=20)
    assert len(index) == 1000
    assert scores.shape == ids.shape == (50, 30)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    assert (ids == STORED.live_ids[:50, None]).any(axis=1).mean() > 0.9
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("name", EXACT_CODES)
def test_codes_as_exact_as_the_store_find_a_vector_first(name: str) -> None:
    scores, ids = INDICES[name]().search(STORED.all[:50], 3)
    assert ids[:, 0].tolist() == STORED.live_ids[:50].tolist()
    np.testing.assert_allclose(scores[:, 0], 1.0, atol=2e-3)


def test_only_allowed_ids_are_found(index: VectorIndex) -> None:
    assert index.capabilities.filters
    allowed = STORED.live_ids[::7]
    for _ in range(2):  # the second call may reuse what the first prepared
        _, ids = index.search(STORED.all[:20], 10, allowed=allowed, effort=64)
        assert np.isin(ids[ids >= 0], allowed).all()
    _, others = index.search(STORED.all[:20], 10, allowed=STORED.live_ids[1::7], effort=64)
    assert not np.isin(others[others >= 0], allowed).any()
    beyond = np.array([4, 10**6])  # ids that came after the index was built
    _, few = index.search(STORED.all[:2], 3, allowed=beyond, effort=64)
    assert set(few.ravel().tolist()) <= {4, -1}


@pytest.mark.parametrize("name", [name for name in INDICES if name.startswith("ivf")])
def test_matches_far_from_the_query_are_found(name: str) -> None:
    """A filter that leaves nothing near the query: lists without a match are skipped, and reading goes on."""
    index = INDICES[name]()
    query = STORED.all[:1]
    far = STORED.live_ids[np.sort(np.argsort(query[0] @ STORED.all.T)[:40])]
    _, expected = exact_search(STORED, query, 40, ids=far)
    _, found = index.search(query, 40, allowed=far, effort=10)
    assert len(np.intersect1d(found, expected)) >= 15  # half of the lists' worth of matches


def test_more_effort_finds_no_less(index: VectorIndex) -> None:
    queries = midpoint_queries(STORED, seed=3, count=50)
    _, expected = exact_search(STORED, queries, 10)
    recalls = [
        np.mean([np.isin(want, have).mean() for want, have in zip(expected, found, strict=True)])
        for found in (index.search(queries, 100, effort=effort)[1] for effort in (1, 8, 128))
    ]
    assert recalls[0] <= recalls[1] + 0.02
    assert recalls[2] == 1.0 if index.capabilities.exact else recalls[2] > 0.95


def test_operating_points_say_what_was_measured(index: VectorIndex) -> None:
    """Recall of every point against brute force; of one depth, no point is slower and worse than another."""
    if not isinstance(index, GraphIndex | InvertedListsIndex):
        return
    queries = midpoint_queries(STORED, seed=4, count=40)
    points, *exact_ms = tune(STORED, index, queries)
    assert min(exact_ms) > 0
    assert {point.depth for point in points} == {10, 100}
    for point in points:
        _, expected = exact_search(STORED, queries, point.depth)
        _, found = index.search(queries, point.candidates, effort=point.effort)
        hits = sum(len(np.intersect1d(want, have)) for want, have in zip(expected, found, strict=True))
        assert point.recall == pytest.approx(hits / expected.size, abs=0.005)
        better = [p for p in points if p.depth == point.depth and p.milliseconds < point.milliseconds]
        assert all(other.recall < point.recall for other in better)
    assert max(point.recall for point in points if point.depth == 10) > 0.99


def test_what_is_writable_is_saved_and_loaded(index: VectorIndex, tmp_path: Path) -> None:
    if not index.capabilities.writable:
        with pytest.raises(TypeError, match="store"):
            index.save(tmp_path / "x")
        with pytest.raises(TypeError, match="store"):
            index.add(STORED.live_ids, STORED.all)
        return
    assert isinstance(index, GraphIndex | InvertedListsIndex)
    index.save(tmp_path / "x")
    for writable in (False, True):
        loaded = load_index(index.kind, tmp_path / "x", rows=1000, dim=DIM, writable=writable)
        for before, after in zip(index.search(STORED.all, 5), loaded.search(STORED.all, 5), strict=True):
            np.testing.assert_array_equal(before, after)
    with pytest.raises(StoreError, match="holds 1,000 vectors of 16 dimensions, but the manifest says 999 of 16"):
        load_index(index.kind, tmp_path / "x", rows=999, dim=DIM)
    (tmp_path / "x").write_bytes(b"nothing of FAISS's")
    with pytest.raises(StoreError, match="x cannot be read by FAISS"):
        load_index(index.kind, tmp_path / "x", rows=1000, dim=DIM)


@pytest.mark.parametrize(
    "kind",
    [
        Hnsw(),
        Hnsw(codes="Flat"),
        Cagra(),
        Ivf(lists=8000),
        Ivf(lists=8000, graph=True),
        IvfRaBitQ(lists=5, bits=1),
        IvfRaBitQ(lists=5000, graph=True),
        IvfPq(lists=5, subquantizers=64),
    ],
)
def test_a_kind_is_read_back_from_what_manifests_name(kind: IndexKind) -> None:
    assert kind_of(kind.factory) == kind
    with pytest.raises(StoreError, match="not a kind of approximate index"):
        kind_of(f"X{kind.factory}")


@pytest.mark.parametrize("name", [name for name in INDICES if name not in ("exact", "cagra")])
def test_memory_is_estimated_from_the_parameters(name: str, tmp_path: Path) -> None:
    """The estimate is within a sixth of the file that FAISS writes, but for the graph over centroids."""
    index = INDICES[name]()
    assert isinstance(index, GraphIndex | InvertedListsIndex)
    index.save(tmp_path / "x")
    size = (tmp_path / "x").stat().st_size
    slack = 20_000 if "graph" in name else 8_000
    assert abs(index.kind.memory(1000, DIM) - size) < size / 6 + slack


@pytest.mark.parametrize("memory", [10**9, 0])
def test_a_gpu_finds_what_the_store_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    """The GPU is stood in for: vectors that fit are kept there, others are uploaded block by block."""
    import faiss as library

    def knn(_resources: object, queries: np.ndarray, block: np.ndarray, k: int, metric: int) -> tuple[object, object]:
        assert [str(queries.dtype), str(block.dtype)] == ["float16", "float16"]
        assert metric == library.METRIC_INNER_PRODUCT
        return library.knn(queries.astype(np.float32), block.astype(np.float32), k, metric=metric)

    for name, stand_in in {
        "index_cpu_to_all_gpus": lambda index, co: index,
        "GpuMultipleClonerOptions": type("Options", (), {}),
        "StandardGpuResources": object,
        "knn_gpu": knn,
    }.items():
        monkeypatch.setattr(library, name, stand_in, raising=False)
    flat = GpuFlatIndex(STORED, 1000, dim=DIM, memory=memory)
    assert not flat.capabilities.filters
    assert len(flat) == 1000
    _, expected = exact_search(STORED, STORED.all[:9], 5)
    assert flat.search(STORED.all[:9], 5)[1].tolist() == expected.tolist()
    with pytest.raises(TypeError, match="ignore selectors"):
        flat.search(STORED.all[:1], 1, allowed=STORED.live_ids)
    with pytest.raises(TypeError, match="GPU copy"):
        flat.add(STORED.live_ids, STORED.all)
    with pytest.raises(TypeError, match="GPU copy"):
        flat.save(tmp_path / "x")
    lists = GpuListsIndex(built(Ivf(lists=20)))
    with pytest.raises(TypeError, match="ignore selectors"):
        lists.search(STORED.all[:1], 1, allowed=STORED.live_ids)


def test_cagra_without_a_gpu_is_refused() -> None:
    with pytest.raises(StoreError, match="built on an NVIDIA GPU by FAISS with cuVS, and there is none"):
        build_cagra(Cagra(), STORED.live_ids, STORED.all)


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
    config = AnnConfig(kind="ivf")
    about = {"rows": rows, "dim": DIM, "vectors": vectors, "trained_on": trained_on}
    assert config.keeps(Ivf(lists=10), **about) is kept
    assert not config.keeps(Hnsw(), **about)
    assert not AnnConfig(kind="hnsw").keeps(Hnsw(), rows=799, dim=DIM, vectors=1000, trained_on=1000)
    assert AnnConfig(kind="hnsw").keeps(Hnsw(), rows=800, dim=DIM, vectors=1000, trained_on=1000)


@pytest.mark.parametrize(
    ("name", "rows", "dim", "kind"),
    [
        ("auto", 99_999, 512, None),
        ("auto", 100_000, 512, IvfRaBitQ(lists=1264, graph=True)),
        ("auto", 10**7, 512, IvfRaBitQ(lists=12649, graph=True)),
        ("auto", 100_000, 32, Ivf(lists=1264, graph=True)),
        ("ivf", 390, 512, Ivf(lists=9)),
        ("ivf", 1, 512, Ivf(lists=1)),
        ("ivfrabitq", 39, 512, IvfRaBitQ(lists=1)),
        ("ivfpq", 400, 514, IvfPq(lists=10, subquantizers=96)),
        ("hnsw", 2, 512, Hnsw()),
        ("hnsw", 0, 512, None),
        ("flat", 10**9, 512, None),
    ],
)
def test_the_kind_follows_the_size(name: AnnName, rows: int, dim: int, kind: IndexKind | None) -> None:
    assert AnnConfig(kind=name, memory=10**11).kind_for(rows, dim) == kind


def test_memory_decides_how_many_bits_are_kept() -> None:
    two = AnnConfig(memory=4 * 10**9).kind_for(10**7, 512)
    one = AnnConfig(memory=10**9).kind_for(10**7, 512)
    assert isinstance(two, IvfRaBitQ)
    assert isinstance(one, IvfRaBitQ)
    assert (two.bits, one.bits) == (2, 1)
    sizes = [AnnConfig(kind="ivfpq", memory=size).kind_for(10**7, 512) for size in (10**11, 10**9, 3 * 10**8)]
    assert [kind.subquantizers for kind in sizes if isinstance(kind, IvfPq)] == [64, 64, 16]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"recall": 1.5}, "recall of 1.5 cannot be aimed at; it must be between 0 and 1"),
        ({"recall": float("nan")}, "recall of nan cannot be aimed at"),
        ({"kind": "lsh"}, "no kind of index 'lsh'; there are auto, flat"),
    ],
)
def test_what_cannot_be_aimed_at_is_one_sentence(config: dict[str, object], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        AnnConfig(**config)  # type: ignore[arg-type]


def test_too_little_memory_names_the_least_that_works() -> None:
    with pytest.raises(
        StoreError, match=r"for 10,000,000 vectors .* fits in 1\.0 MB; the smallest, RR,.*, takes 825\.9 MB"
    ):
        AnnConfig(memory=10**6).kind_for(10**7, 512)
    with pytest.raises(StoreError, match=r"fits in 0\.0 MB"):
        AnnConfig(memory=0).kind_for(10**7, 512)
    with pytest.raises(StoreError, match="kind ivfpq is trained on at least 256 vectors, but there are 39"):
        AnnConfig(kind="ivfpq").kind_for(39, 512)
