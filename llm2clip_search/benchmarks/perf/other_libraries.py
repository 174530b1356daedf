"""Indices of other libraries over the same vectors, for comparison; each has to be installed to be measured."""

import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llm2clip_search.errors import CorpusError
from llm2clip_search.vectorindex.clustering import spherical_centroids
from llm2clip_search.vectorindex.faiss_library import import_faiss
from llm2clip_search.vectorindex.kinds import TRAINING_PER_LIST, IvfRaBitQ, lists_for, needs_graph

LINKS = 16
"""Links per vector of the graphs, their M."""
EF_CONSTRUCTION = 128
WIDTHS = (16, 32, 64, 128, 256, 512)
"""``ef`` of the graphs' searches."""
REFINED = 10
"""Candidates per result that FAISS ranks again by float16 vectors."""

Blocks = Iterable[tuple[np.ndarray, np.ndarray]]
"""int64 ids ``[m]`` and float32 unit vectors ``[m, dim]``."""


class Peer(Protocol):
    """An index that another library has built."""

    description: str
    """Library, version and parameters."""
    efforts: tuple[int, ...]
    effort_name: str

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        """Ids int64 ``[n, k]`` for float32 queries ``[n, dim]``, best first."""

    def save(self, path: Path) -> None:
        """Write the index to a file."""


class _Hnswlib(Peer):
    efforts, effort_name = WIDTHS, "ef"

    def __init__(self, blocks: Blocks, *, rows: int, dim: int) -> None:
        import hnswlib

        self.description = f"hnswlib {version('hnswlib')}, M={LINKS}"
        self._index = hnswlib.Index(space="ip", dim=dim)
        self._index.init_index(max_elements=rows, M=LINKS, ef_construction=EF_CONSTRUCTION)
        for ids, vectors in blocks:
            self._index.add_items(vectors, ids)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self._index.set_ef(max(k, effort))
        return np.asarray(self._index.knn_query(queries, k=k)[0], dtype=np.int64)

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))


class _Usearch(Peer):
    efforts, effort_name = WIDTHS, "ef"

    def __init__(self, blocks: Blocks, *, rows: int, dim: int) -> None:
        from usearch.index import Index

        self.description = f"usearch {version('usearch')} f16, M={LINKS}"
        self._index: Any = Index(ndim=dim, metric="ip", dtype="f16", connectivity=LINKS, expansion_add=EF_CONSTRUCTION)
        for ids, vectors in blocks:
            self._index.add(ids, vectors)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self._index.expansion_search = max(k, effort)
        return np.asarray(self._index.search(queries, k).keys, dtype=np.int64).reshape(len(queries), k)

    def save(self, path: Path) -> None:
        self._index.save(str(path))


class _Voyager(Peer):
    efforts, effort_name = WIDTHS, "ef"

    def __init__(self, blocks: Blocks, *, rows: int, dim: int) -> None:
        import voyager

        self.description = f"voyager {version('voyager')}, M={LINKS}"
        self._index = voyager.Index(
            voyager.Space.InnerProduct, dim, M=LINKS, ef_construction=EF_CONSTRUCTION, max_elements=rows
        )
        for ids, vectors in blocks:
            self._index.add_items(vectors, ids)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        found: np.ndarray = self._index.query(queries, k, query_ef=max(k, effort))[0]
        return found.astype(np.int64)

    def save(self, path: Path) -> None:
        self._index.save(str(path))


class _Faiss(Peer):
    """The lists that the engine builds, trained alike but driven by FAISS alone, its own refinement included."""

    efforts, effort_name = (8, 16, 32, 64, 128, 256), "nprobe"

    def __init__(self, blocks: Blocks, *, rows: int, dim: int) -> None:
        faiss = import_faiss()
        lists = lists_for(rows)
        kind = IvfRaBitQ(lists=lists, graph=needs_graph(lists))
        self.description = f"faiss {faiss.__version__}, RR{dim},{kind.centroids},RaBitQ2,Refine(SQfp16)"
        vectors = np.empty((rows, dim), dtype=np.float32)
        ids = np.empty(rows, dtype=np.int64)
        start = 0
        for block_ids, block in blocks:
            ids[start : start + len(block)], vectors[start : start + len(block)] = block_ids, block
            start += len(block)
        self._ids, self._graph = ids, kind.graph
        self._index = faiss.index_factory(dim, self.description.partition(", ")[2], faiss.METRIC_INNER_PRODUCT)
        sample = vectors[np.random.default_rng(0).permutation(rows)[: TRAINING_PER_LIST * kind.lists]]
        inner = faiss.downcast_index(self._index.base_index)
        rotation = faiss.downcast_VectorTransform(inner.chain.at(0))
        rotation.init(1)
        faiss.extract_index_ivf(inner).quantizer.add(spherical_centroids(rotation.apply(sample), kind.lists, seed=0))
        self._index.train(sample)
        self._index.add(vectors)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        faiss = import_faiss()
        width = faiss.SearchParametersHNSW(efSearch=max(64, 2 * effort)) if self._graph else None
        lists = faiss.SearchParametersIVF(nprobe=effort, quantizer_params=width)
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=REFINED, base_index_params=faiss.SearchParametersPreTransform(index_params=lists)
        )
        _, found = self._index.search(queries, k, params=parameters)
        return np.where(found < 0, -1, self._ids[found])

    def save(self, path: Path) -> None:
        import_faiss().write_index(self._index, str(path))


PEERS: dict[str, Callable[..., Peer]] = {"faiss": _Faiss, "hnswlib": _Hnswlib, "usearch": _Usearch, "voyager": _Voyager}
"""Classes by library; each is built from blocks of vectors."""


def build_peer(name: str, blocks: Blocks, *, rows: int, dim: int) -> Peer:
    """Build an index of another library.

    Raises:
        CorpusError: it is not installed.
    """
    try:
        return PEERS[name](blocks, rows=rows, dim=dim)
    except ImportError as error:
        raise CorpusError(f"{name} is not installed.", hint=f"pip install {name}") from error


def saved_bytes(peer: Peer) -> int:
    """Size of an index as it is saved."""
    with tempfile.TemporaryDirectory(prefix="llm2clip-") as folder:
        path = Path(folder) / "index"
        peer.save(path)
        return path.stat().st_size
