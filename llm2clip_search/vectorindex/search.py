"""FAISS over stored vectors: exact search by blocks, and how an approximate index is asked."""

from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.vectors import top_k
from llm2clip_search.errors import StoreError
from llm2clip_search.store.snapshot import Snapshot


def import_faiss() -> Any:
    """FAISS, whichever of its builds is installed.

    Raises:
        StoreError: none is; the extras that bring one are named.
    """
    try:
        import faiss
    except ImportError as error:
        raise StoreError(
            "FAISS is not installed; pip install 'llm2clip-search[cpu]' (or [gpu], or [cuvs]) brings it."
        ) from error
    return faiss


def read_ann(path: Path) -> Any:
    """An approximate index from its file.

    Raises:
        StoreError: FAISS cannot read it.
    """
    try:
        return import_faiss().read_index(str(path))
    except RuntimeError as error:
        raise StoreError(
            f"{path} cannot be read by FAISS; delete it, and 'llm2clip-search index' builds it anew."
        ) from error


def search_parameters(faiss: Any, index: Any, *, selector: Any = None, effort: int = 1) -> Any:
    """How hard an approximate index searches: HNSW's efSearch or IVF's nprobe, and which ids count.

    ``effort`` multiplies both; a query for many results passes a larger one.
    """
    inner = faiss.downcast_index(index.index) if hasattr(index, "index") else index
    if isinstance(inner, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=128 * effort)
    nlist = faiss.extract_index_ivf(index).nlist
    return faiss.SearchParametersIVF(sel=selector, nprobe=min(nlist, probes(nlist) * effort))


def probes(nlist: int) -> int:
    """Inverted lists that a search looks into."""
    return min(nlist, max(16, nlist // 32))


def exact_search(
    snapshot: Snapshot, queries: np.ndarray, k: int, *, ids: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and id of the ``k`` best live rows, or of those in ``ids``, a block at a time.

    Returns:
        float32 and int64, each ``[n, min(k, rows)]``, best first; equal scores by lower id.
    """
    if len(queries) == 0:
        return np.empty((0, k), dtype=np.float32), np.empty((0, k), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    found = np.empty((len(queries), 0), dtype=np.int64)
    for block_ids, vectors in snapshot.blocks(ids):
        parts = [top_k(queries[start : start + 256] @ vectors.T, k) for start in range(0, len(queries), 256)]
        scores = np.concatenate([scores, np.concatenate([top for top, _ in parts])], axis=1)
        places = np.concatenate([place for _, place in parts])
        found = np.concatenate([found, block_ids[places]], axis=1)
        order = np.lexsort((found, -scores), axis=1)[:, :k]
        scores, found = np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
    return scores, found
