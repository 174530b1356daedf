"""Searches on a GPU: with stand-ins for FAISS's GPU where there is none, and beside the CPU where there is one."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm2clip_search.engine import SearchIndex
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Snapshot, Writer
from llm2clip_search.vectorindex import gpu
from llm2clip_search.vectorindex.exact import exact_search
from llm2clip_search.vectorindex.faiss_index import create_index
from llm2clip_search.vectorindex.faiss_library import gpu_count
from llm2clip_search.vectorindex.gpu import GpuListsIndex
from llm2clip_search.vectorindex.inverted_lists import InvertedListsIndex
from llm2clip_search.vectorindex.kinds import Ivf, IvfPq
from llm2clip_search.vectorindex.policy import AnnName
from tests.support.encoders import ColourEncoder
from tests.support.vectors import DIM, MODEL, add, clustered, prefer_approximate

NO_MEMORY = (
    "Error: 'err == cudaSuccess' failed: alloc fail type TemporaryMemoryBuffer (cudaMalloc error out of memory [2])"
)
QUERIES = clustered(9, 40)
on_a_gpu = pytest.mark.skipif(gpu_count() == 0, reason="needs a GPU, and FAISS for it")


@pytest.fixture
def faiss_with_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """FAISS that seems to have a GPU, whose copies are the indices themselves."""
    import faiss

    class Parameters:
        def set_index_parameter(self, index: Any, name: str, value: int) -> None:
            setattr(faiss.extract_index_ivf(index), name, value)

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index, co: index, raising=False)
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", type("Options", (), {}), raising=False)
    monkeypatch.setattr(faiss, "GpuParameterSpace", Parameters, raising=False)
    monkeypatch.setattr("llm2clip_search.engine.search.gpu_count", lambda: 1)
    monkeypatch.setattr(gpu, "gpu_memory", lambda: 10**9)
    return faiss


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_gpu_plan_gives_what_the_cpu_gives(
    tmp_path: Path, colours: ColourEncoder, faiss_with_gpu: Any, monkeypatch: pytest.MonkeyPatch, kind: AnnName
) -> None:
    """Ids, order and lists read; filters stay on the CPU."""
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 2000), removed=())
        if build_ann(writer, AnnConfig(kind=kind)):
            prefer_approximate(writer)
    with monkeypatch.context() as without:
        without.setattr("llm2clip_search.engine.search.gpu_count", lambda: 0)
        cpu = SearchIndex(Snapshot(tmp_path), colours)
        expected = [hit.id for hit in cpu.query("anything", k=20).hits]
    copied: list[object] = []

    def to_gpu(index: object, co: object) -> object:
        copied.append(index)
        return index

    monkeypatch.setattr(faiss_with_gpu, "index_cpu_to_all_gpus", to_gpu)
    gpu_index = SearchIndex(Snapshot(tmp_path), colours)
    result = gpu_index.query("anything", k=20)
    assert result.plan.device == "gpu"
    assert [hit.id for hit in result.hits] == expected
    assert len(copied) == 1
    assert gpu_index.query("anything", k=20, where="width < 50").plan.device == "cpu"
    assert len(gpu_index.query("anything", k=5000).hits) == 2000
    assert len(cpu.query("anything", k=5000).hits) == 2000


@pytest.mark.parametrize("kind", [Ivf(lists=20, graph=True), IvfPq(lists=20, graph=True, subquantizers=8)])
@pytest.mark.parametrize("probes", [1, 5, 20])
def test_lists_whose_centroids_have_a_graph_are_found_without_it(
    faiss_with_gpu: Any, kind: Ivf | IvfPq, probes: int
) -> None:
    stored = clustered(1, 1000)
    index = create_index(kind, dim=DIM)
    assert isinstance(index, InvertedListsIndex)
    index.train(stored)
    index.add(2 * np.arange(1000), stored)
    copy = GpuListsIndex(index)
    lists = faiss_with_gpu.downcast_index(faiss_with_gpu.extract_index_ivf(copy.faiss_index))
    assert isinstance(faiss_with_gpu.downcast_index(lists.quantizer), faiss_with_gpu.IndexFlat)
    expected_scores, expected = index.search(QUERIES, 10, effort=probes)
    scores, ids = copy.search(QUERIES, 10, effort=probes)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    assert ids.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_an_index_that_does_not_fit_on_the_gpu_is_searched_on_the_cpu(
    tmp_path: Path,
    faiss_with_gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: AnnName,
) -> None:
    def refuse(index: object, co: object) -> None:
        raise RuntimeError(NO_MEMORY)

    written(tmp_path, kind)
    monkeypatch.setattr(faiss_with_gpu, "index_cpu_to_all_gpus", refuse)
    index = SearchIndex(Snapshot(tmp_path))
    assert index.plan_for(10).device == "gpu"
    for _ in range(2):
        scores, ids = index.search(QUERIES, k=10)
        expected_scores, expected = exact_search(index.snapshot, QUERIES, 10)
        assert (ids == expected).mean() > (0.999 if kind == "flat" else 0.9)
        np.testing.assert_allclose(scores[:, 0], expected_scores[:, 0], atol=1e-6)
        assert index.plan_for(10).device == "cpu"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_another_error_of_the_gpu_is_not_hidden(
    tmp_path: Path, faiss_with_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(index: object, co: object) -> None:
        raise RuntimeError("CUDA error 700 an illegal memory access was encountered")

    written(tmp_path, "flat")
    monkeypatch.setattr(faiss_with_gpu, "index_cpu_to_all_gpus", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        SearchIndex(Snapshot(tmp_path)).search(QUERIES, k=10)


@on_a_gpu
@pytest.mark.parametrize("resident", [True, False])
def test_exact_search_on_a_gpu_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resident: bool) -> None:
    """Vectors that are kept there, and blocks that are uploaded."""
    if not resident:
        monkeypatch.setattr(gpu, "gpu_memory", lambda: 1)
    written(tmp_path, "flat")
    index = SearchIndex(Snapshot(tmp_path))
    for k in (1, 10, 2016):
        assert index.plan_for(k).device == "gpu"
        scores, ids = index.search(QUERIES, k=k)
        expected_scores, expected = exact_search(index.snapshot, QUERIES, k)
        np.testing.assert_allclose(scores, expected_scores, atol=2e-6)
        assert (ids == expected).mean() > 0.999


@on_a_gpu
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kind", ["ivf", "ivfpq"])
def test_lists_on_a_gpu_are_those_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: AnnName, graph: bool
) -> None:
    monkeypatch.setattr("llm2clip_search.vectorindex.policy.needs_graph", lambda lists: graph)
    written(tmp_path, kind)
    on_gpu = SearchIndex(Snapshot(tmp_path))
    assert on_gpu.plan_for(10).device == "gpu"
    found = on_gpu.search(QUERIES, k=10)[1]
    monkeypatch.setattr("llm2clip_search.engine.search.gpu_count", lambda: 0)
    expected = SearchIndex(Snapshot(tmp_path)).search(QUERIES, k=10)[1]
    assert (found == expected).mean() > 0.98


def written(folder: Path, kind: AnnName) -> None:
    """Write an index of 3,000 vectors whose approximate index, if it has one, is preferred to exact search."""
    with Writer.open(folder, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 3000))
        if build_ann(writer, AnnConfig(kind=kind)):
            prefer_approximate(writer)
