"""Indices on NVIDIA GPUs: copies that search faster, and graphs that are built there.

Copies are made from what is on disk, so they can always be made again. FAISS's classic GPU indices ignore selectors and
are never asked to filter.
"""

import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.vectors import merge_top
from llm2clip_search.errors import StoreError
from llm2clip_search.vectorindex.faiss_index import FaissIndex, GraphIndex
from llm2clip_search.vectorindex.faiss_library import gpu_count, import_faiss
from llm2clip_search.vectorindex.index import Capabilities, Vectors
from llm2clip_search.vectorindex.inverted_lists import InvertedListsIndex
from llm2clip_search.vectorindex.kinds import GPU_MAX_K, Cagra

FLAT_SHARE = 0.6
"""Share of a GPU's memory that vectors may take; the rest is for queries, scores and whoever else uses it."""


class _GpuCopy(ABC):
    """What copies on GPUs have in common: they neither filter nor change, and one search at a time uses them."""

    capabilities = Capabilities(exact=False, filters=False, writable=False)

    def __init__(self, rows: int) -> None:
        self._rows = rows
        # FAISS's GPU resources, and the number of lists that a copy reads, belong to one search at a time.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._rows

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        raise TypeError("a GPU copy is made again when its index changes")

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, effort: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        if allowed is not None:
            raise TypeError("FAISS's GPU indices ignore selectors; search the CPU index")
        with self._lock:
            return self._search(queries, k, effort)

    def save(self, path: Path) -> None:
        raise TypeError("a GPU copy is not saved; what it was made of is")

    @abstractmethod
    def _search(self, queries: np.ndarray, k: int, effort: int | None) -> tuple[np.ndarray, np.ndarray]:
        """As `VectorIndex.search`, without a filter and by one thread."""


class GpuListsIndex(_GpuCopy):
    """A copy of inverted lists on all GPUs, for unfiltered search."""

    def __init__(self, index: FaissIndex) -> None:
        """Copy an index for which `runs_on_gpu`."""
        assert isinstance(index, InvertedListsIndex), "only lists can be copied"
        super().__init__(len(index))
        self.kind = index.kind
        # A copy of lists with a graph would search it on the CPU, with an effort that cannot be set there: one query in
        # a hundred missed all of its neighbours. A GPU compares all centroids as fast.
        lists = index.with_flat_centroids() if index.kind.graph else index.faiss_index
        self.faiss_index = import_faiss().index_cpu_to_all_gpus(lists, co=_half_precision())

    def _search(self, queries: np.ndarray, k: int, effort: int | None) -> tuple[np.ndarray, np.ndarray]:
        probes = min(effort or self.kind.default_effort, GPU_MAX_K)
        import_faiss().GpuParameterSpace().set_index_parameter(self.faiss_index, "nprobe", probes)
        scores, ids = self.faiss_index.search(queries, k)
        return scores, ids


class GpuFlatIndex(_GpuCopy):
    """All stored vectors compared on the GPU: kept there as float16 if they fit, otherwise uploaded block by block.

    Sums of float16 products differ in the last bits, so its results are candidates.
    """

    def __init__(self, vectors: Vectors, rows: int, *, dim: int, memory: int) -> None:
        """``memory`` is the bytes of one GPU."""
        super().__init__(rows)
        self._vectors = vectors
        self._resident = self._upload(dim) if 2 * dim * rows <= FLAT_SHARE * memory else None
        self._resources = None if self._resident is not None else import_faiss().StandardGpuResources()

    def _search(self, queries: np.ndarray, k: int, effort: int | None) -> tuple[np.ndarray, np.ndarray]:
        if self._resident is not None:
            scores, ids = self._resident.search(queries, k)
            return scores, ids
        faiss = import_faiss()
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for block_ids, block in self._vectors.blocks():
            best, rows = faiss.knn_gpu(
                self._resources,
                queries.astype(np.float16),
                block.astype(np.float16),
                min(k, len(block)),
                metric=faiss.METRIC_INNER_PRODUCT,
            )
            scores, ids = merge_top(scores, ids, best, block_ids[rows])
        return scores, ids

    def _upload(self, dim: int) -> Any:
        faiss = import_faiss()
        flat = faiss.IndexIDMap2(faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(dim), co=_half_precision()))
        for ids, block in self._vectors.blocks():
            flat.add_with_ids(block, ids)
        return flat


def build_cagra(kind: Cagra, ids: np.ndarray, vectors: np.ndarray) -> GraphIndex:
    """Build a graph on the GPU and take it back to the CPU, where it is searched like HNSW's lowest layer.

    Args:
        ids: int64 ``[n]``.
        vectors: float32 ``[n, dim]``, unit length.

    Raises:
        StoreError: there is no GPU, or FAISS was built without cuVS.
    """
    faiss = import_faiss()
    if not hasattr(faiss, "GpuIndexCagra") or gpu_count() == 0:
        raise StoreError(
            "CAGRA graphs are built on an NVIDIA GPU by FAISS with cuVS, and there is none.",
            hint="Install llm2clip-search[cuvs] on a machine with a GPU, or choose another kind with --ann.",
        )
    config = faiss.GpuIndexCagraConfig()
    config.graph_degree, config.intermediate_graph_degree = kind.degree, 2 * kind.degree
    built = faiss.GpuIndexCagra(faiss.StandardGpuResources(), vectors.shape[1], faiss.METRIC_INNER_PRODUCT, config)
    built.train(vectors)
    graph = faiss.IndexHNSWCagra()
    graph.base_level_only = True
    built.copyTo(graph)
    numbered = faiss.IndexIDMap2(graph)
    faiss.copy_array_to_vector(ids, numbered.id_map)
    numbered.ntotal = len(ids)
    numbered.construct_rev_map()
    return GraphIndex(kind, numbered)


def gpu_memory() -> int:
    """Bytes of the first GPU, in total."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def _half_precision() -> Any:
    options = import_faiss().GpuMultipleClonerOptions()
    options.useFloat16 = True
    return options
