"""FAISS's indices on the CPU behind the `VectorIndex` seam: graphs, and which class is made for which kind."""

from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.errors import StoreError
from llm2clip_search.vectorindex.faiss_library import IdBitmap, import_faiss, threads_for, write_index
from llm2clip_search.vectorindex.index import Capabilities
from llm2clip_search.vectorindex.inverted_lists import InvertedListsIndex
from llm2clip_search.vectorindex.kinds import Cagra, Hnsw, IndexKind, IvfPq, IvfRaBitQ, padded


class GraphIndex:
    """A graph of neighbours whose vectors carry the store's ids; the effort is ``efSearch``."""

    capabilities = Capabilities(exact=False, filters=True, writable=True)

    def __init__(self, kind: Hnsw | Cagra, index: Any) -> None:
        """Wrap a FAISS index of that kind; `create_index` and `load_index` make one."""
        self.kind = kind
        self.faiss_index = index
        self._allowed: tuple[np.ndarray, IdBitmap] | None = None

    def __len__(self) -> int:
        return int(self.faiss_index.ntotal)

    def ids(self) -> np.ndarray:
        """int64, those of its vectors, in any order."""
        ids: np.ndarray = import_faiss().vector_to_array(self.faiss_index.id_map)
        return ids

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.faiss_index.add_with_ids(np.asarray(vectors, dtype=np.float32), ids)

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, effort: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        selector = None
        if allowed is not None:
            kept = self._allowed
            if kept is None or kept[0] is not allowed:
                kept = self._allowed = (allowed, IdBitmap(allowed))
            selector = kept[1].selector
        width = max(k, effort or self.kind.default_effort)
        parameters = import_faiss().SearchParametersHNSW(sel=selector, efSearch=width)
        with threads_for(len(queries)):
            scores, ids = self.faiss_index.search(queries, k, params=parameters)
        return scores, ids

    def save(self, path: Path) -> None:
        write_index(self.faiss_index, path)


FaissIndex = GraphIndex | InvertedListsIndex


def create_index(kind: IndexKind, *, dim: int) -> FaissIndex:
    """An empty index of any kind but `Cagra`, which is built at once by `gpu.build_cagra`.

    Raises:
        StoreError: FAISS is not installed.
    """
    faiss = import_faiss()
    factory = kind.factory
    if isinstance(kind, IvfPq | IvfRaBitQ):
        factory = factory.replace("RR,", f"RR{padded(dim) if isinstance(kind, IvfPq) else dim},")
    return _wrapped(kind, faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT))


def load_index(kind: IndexKind, path: Path, *, rows: int, dim: int, writable: bool = False) -> FaissIndex:
    """Read an index that was saved.

    Args:
        rows: vectors that it has to hold.
        writable: read it into memory. Otherwise its file is mapped, which takes no time, and pages that no search reads
            take no memory.

    Raises:
        StoreError: FAISS is not installed, cannot read the file, or finds other vectors in it.
    """
    faiss = import_faiss()
    # The mapping is that of `float16_scan`: FAISS reads graphs and lists alike in place.
    flags = 0 if writable else faiss.IO_FLAG_MMAP_IFC
    try:
        index = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise StoreError(f"{path} cannot be read by FAISS.", hint=_REBUILD) from error
    if (index.ntotal, index.d) != (rows, dim):
        raise StoreError(
            f"{path} holds {index.ntotal:,} vectors of {index.d} dimensions, but the manifest says {rows:,} of {dim}.",
            hint=_REBUILD,
        )
    if not _is_of_kind(kind, index):
        raise StoreError(f"{path} is not the {kind.factory} that the manifest says.", hint=_REBUILD)
    return _wrapped(kind, index)


def _is_of_kind(kind: IndexKind, index: Any) -> bool:
    """Whether a FAISS index has the parts that its kind is searched by; another one would end the process."""
    faiss = import_faiss()
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        return False
    if isinstance(kind, Hnsw | Cagra):
        return isinstance(index, faiss.IndexIDMap) and isinstance(faiss.downcast_index(index.index), faiss.IndexHNSW)
    lists = faiss.try_extract_index_ivf(index)
    return lists is not None and lists.nlist == kind.lists and lists.d == index.d


_REBUILD = "Run 'llm2clip-search index' again, which rebuilds it."


def _wrapped(kind: IndexKind, index: Any) -> FaissIndex:
    return GraphIndex(kind, index) if isinstance(kind, Hnsw | Cagra) else InvertedListsIndex(kind, index)
