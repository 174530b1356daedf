"""FAISS behind the `VectorIndex` seam: graphs and inverted lists on the CPU, and their copies on GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.encoders.placement import has_nvidia_driver
from llm2clip_search.errors import StoreError
from llm2clip_search.vectorindex.index import Capabilities, Vectors
from llm2clip_search.vectorindex.kinds import Hnsw, IndexKind, Ivf

GPU_MAX_K = 2048
"""Results per query that FAISS's GPU indices can give."""


def import_faiss() -> Any:
    """FAISS, whichever of its builds is installed.

    Raises:
        StoreError: none is.
    """
    try:
        import faiss
    except ImportError as error:
        raise StoreError(
            "FAISS is not installed.",
            hint="Install it with pip install 'llm2clip-search[cpu]', or [gpu] or [cuvs] for NVIDIA GPUs.",
        ) from error
    return faiss


class FaissIndex:
    """A `VectorIndex` on the CPU whose vectors carry the store's ids."""

    capabilities = Capabilities(exact=False, filters=True, writable=True)

    def __init__(self, kind: IndexKind, index: Any) -> None:
        """Wrap a FAISS index of that kind; `create` and `load` make one."""
        self.kind = kind
        self.faiss_index = index
        self._selector: tuple[np.ndarray, Any] | None = None

    @classmethod
    def create(cls, kind: IndexKind, *, dim: int) -> "FaissIndex":
        """An empty index.

        Raises:
            StoreError: FAISS is not installed.
        """
        faiss = import_faiss()
        return cls(kind, faiss.index_factory(dim, kind.factory, faiss.METRIC_INNER_PRODUCT))

    @classmethod
    def load(cls, kind: IndexKind, path: Path) -> "FaissIndex":
        """Read an index that `save` wrote.

        Raises:
            StoreError: FAISS is not installed or cannot read the file.
        """
        try:
            return cls(kind, import_faiss().read_index(str(path)))
        except RuntimeError as error:
            raise StoreError(
                f"{path} cannot be read by FAISS.", hint="Delete it; 'llm2clip-search index' builds it again."
            ) from error

    def __len__(self) -> int:
        return int(self.faiss_index.ntotal)

    @property
    def needs_training(self) -> int:
        """Vectors that `train` wants before anything can be added; 0 if it needs none."""
        if self.faiss_index.is_trained:
            return 0
        assert isinstance(self.kind, Ivf), "only inverted lists are trained"
        return 64 * self.kind.lists

    def train(self, vectors: np.ndarray) -> None:
        """Fit centroids to a sample, float32 ``[n, dim]``."""
        self.faiss_index.train(vectors)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.faiss_index.add_with_ids(np.asarray(vectors, dtype=np.float32), ids)

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, effort: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        faiss = import_faiss()
        selector = None if allowed is None else self._select(allowed)
        if isinstance(self.kind, Hnsw):
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=self.kind.width(effort, k))
        else:
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=self.kind.width(effort))
        scores, ids = self.faiss_index.search(queries, k, params=parameters)
        return scores, ids

    def save(self, path: Path) -> None:
        import_faiss().write_index(self.faiss_index, str(path))

    def _select(self, allowed: np.ndarray) -> Any:
        """FAISS's selector of some ids; that of the last array is kept, because live ids are passed every time."""
        kept = self._selector
        if kept is None or kept[0] is not allowed:
            kept = (allowed, import_faiss().IDSelectorBatch(allowed))
            self._selector = kept
        return kept[1]


class FaissGpuIndex:
    """A copy on all GPUs, for unfiltered search: classic GPU indices ignore selectors."""

    def __init__(self, index: Any, rows: int, *, exact: bool) -> None:
        self.faiss_index, self._rows = index, rows
        self.capabilities = Capabilities(exact=exact, filters=False, writable=False, max_k=GPU_MAX_K)

    @classmethod
    def of(cls, index: FaissIndex) -> "FaissGpuIndex":
        """A copy of inverted lists; GPU searches take no parameters, so the copy carries its ``nprobe``."""
        assert isinstance(index.kind, Ivf), "FAISS has no graph on the GPU"
        faiss = import_faiss()
        faiss.extract_index_ivf(index.faiss_index).nprobe = index.kind.probes
        return cls(faiss.index_cpu_to_all_gpus(index.faiss_index), len(index), exact=False)

    @classmethod
    def flat(cls, vectors: Vectors, *, dim: int) -> "FaissGpuIndex":
        """All stored vectors in GPU memory, searched exactly."""
        faiss = import_faiss()
        flat = faiss.IndexIDMap2(faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(dim)))
        for ids, block in vectors.blocks():
            flat.add_with_ids(block, ids)
        return cls(flat, int(flat.ntotal), exact=True)

    def __len__(self) -> int:
        return self._rows

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        raise TypeError("a GPU copy is made again when its index changes")

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, effort: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        if allowed is not None:
            raise TypeError("FAISS's GPU indices ignore selectors; search the CPU index")
        scores, ids = self.faiss_index.search(queries, k)
        return scores, ids

    def save(self, path: Path) -> None:
        raise TypeError("a GPU copy is not saved; its CPU index is")


def gpu_count() -> int:
    """GPUs that FAISS can use; FAISS is imported only where there is an NVIDIA driver."""
    if not has_nvidia_driver():
        return 0
    faiss = import_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS on one thread: a single query gives others nothing to share, and waking busy cores takes longest."""
    faiss = import_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
