"""Kinds of approximate index with their parameters, as typed values, and what manifests call them."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from llm2clip_search.errors import StoreError

PQ_SIZES = (96, 64, 48, 32, 16, 8, 4, 2, 1)
"""Bytes per vector of product quantisation, of those that FAISS's GPU index knows too."""
ID_BYTES = 8
MAX_PROBES = 2048
"""Most lists that tuning tries; searches that need more are better made exactly."""
GPU_MAX_K = 2048
"""Results per query that FAISS's GPU indices can give."""
GRAPH_FROM_LISTS = 1024
"""From this many centroids on, an HNSW graph over them finds the nearest faster than comparing all."""
TRAINING_PER_LIST = 40
"""Training vectors per centroid, just above the 39 below which FAISS warns."""
PQ_CENTROIDS = 256
"""Centroids of each subquantizer of 8 bits; product quantisation needs as many training vectors."""


@dataclass(frozen=True, kw_only=True)
class Hnsw:
    """A graph of neighbours over the vectors (Malkov and Yashunin, arXiv 1603.09320)."""

    neighbours: int = 32
    """Links per vector, HNSW's M; twice as many in the lowest layer."""
    codes: str = "SQfp16"
    """How FAISS keeps the vectors: ``SQfp16``, or ``Flat`` for float32."""

    name = "hnsw"
    effort_name = "efSearch"
    """What FAISS calls the effort: candidates that a search keeps."""
    default_effort = 128

    @property
    def factory(self) -> str:
        """FAISS's factory string, which manifests and tables show."""
        return f"IDMap2,HNSW{self.neighbours},{self.codes}"

    @property
    def min_rows(self) -> int:
        """Fewest vectors that it can be built from."""
        return 1

    def efforts(self) -> tuple[int, ...]:
        """Efforts that tuning tries, ascending."""
        return (16, 32, 64, 128, 256, 512, 1024)

    def memory(self, rows: int, dim: int) -> int:
        """Bytes that searching takes, besides the stored vectors."""
        width = 4 if self.codes == "Flat" else 2
        return rows * (width * dim + 2 * 4 * self.neighbours + ID_BYTES)


@dataclass(frozen=True, kw_only=True)
class Cagra:
    """A graph built on a GPU by cuVS (Ootomo et al., arXiv 2308.15136), and searched on the CPU as HNSW's lowest
    layer."""

    degree: int = 64
    """Links per vector."""

    name = "cagra"
    effort_name = "efSearch"
    default_effort = 128

    @property
    def factory(self) -> str:
        """How manifests name it; FAISS has no factory string for it."""
        return f"CAGRA{self.degree}"

    @property
    def min_rows(self) -> int:
        """cuVS needs more vectors than links."""
        return 2 * self.degree + 1

    def efforts(self) -> tuple[int, ...]:
        """Efforts that tuning tries, ascending."""
        return (32, 64, 128, 256, 512, 1024)

    def memory(self, rows: int, dim: int) -> int:
        """Bytes that searching on the CPU takes; FAISS keeps float32 vectors."""
        return rows * (4 * dim + 4 * self.degree + ID_BYTES)


@dataclass(frozen=True, kw_only=True)
class InvertedLists:
    """Vectors in lists around k-means centroids; the effort is the number of lists that a search reads."""

    lists: int
    graph: bool = False
    """Centroids are searched by a graph instead of one by one."""

    effort_name = "nprobe"

    @property
    def centroids(self) -> str:
        """The part of the factory string before the codes."""
        return f"IVF{self.lists}_HNSW32" if self.graph else f"IVF{self.lists}"

    @property
    def default_effort(self) -> int:
        """Lists to read where nothing was measured."""
        return min(self.lists, max(16, self.lists // 32))

    @property
    def min_rows(self) -> int:
        """Fewest vectors that it can be built from."""
        return self.lists

    def efforts(self) -> tuple[int, ...]:
        """Efforts that tuning tries, ascending: powers of two, and all lists where they are few."""
        most = min(self.lists, MAX_PROBES)
        return tuple(sorted({*(2**power for power in range(most.bit_length())), most}))

    def lists_memory(self, rows: int, dim: int, code_bytes: int) -> int:
        """Bytes of codes, ids and centroids."""
        return rows * (code_bytes + ID_BYTES) + self.lists * dim * 4


@dataclass(frozen=True, kw_only=True)
class Ivf(InvertedLists):
    """Lists of float16 residuals: as exact as stored vectors, and as large."""

    name = "ivf"

    @property
    def factory(self) -> str:
        """FAISS's factory string, which manifests and tables show."""
        return f"{self.centroids},SQfp16"

    def memory(self, rows: int, dim: int) -> int:
        """Bytes that searching takes, besides the stored vectors."""
        return self.lists_memory(rows, dim, 2 * dim)


@dataclass(frozen=True, kw_only=True)
class IvfRaBitQ(InvertedLists):
    """Lists of randomly rotated vectors with a few bits per dimension (Gao and Long, RaBitQ, arXiv 2405.12497).

    Its estimates choose candidates, which are ranked again by their stored vectors.
    """

    bits: int = 2
    """Per dimension."""

    name = "ivfrabitq"

    @property
    def factory(self) -> str:
        """FAISS's factory string without the dimension of the rotation, which manifests and tables show."""
        return f"RR,{self.centroids},RaBitQ{self.bits}"

    def memory(self, rows: int, dim: int) -> int:
        """Bytes that searching takes, besides the stored vectors."""
        factors = 8 if self.bits == 1 else 20  # FAISS's corrections of each vector
        return self.lists_memory(rows, dim, self.bits * math.ceil(dim / 8) + factors)


@dataclass(frozen=True, kw_only=True)
class IvfPq(InvertedLists):
    """Lists of randomly rotated residuals, product-quantised (Jégou, Douze and Schmid, TPAMI 2011), which FAISS can
    also search on a GPU."""

    subquantizers: int
    """Bytes per vector, one of `PQ_SIZES`; a divisor of the rotated vectors' dimension (`padded`)."""

    name = "ivfpq"

    @property
    def factory(self) -> str:
        """FAISS's factory string without the dimension of the rotation, which manifests and tables show."""
        return f"RR,{self.centroids},PQ{self.subquantizers}"

    @property
    def min_rows(self) -> int:
        """Fewest vectors that it can be built from."""
        return max(self.lists, PQ_CENTROIDS)

    def memory(self, rows: int, dim: int) -> int:
        """Bytes that searching takes, besides the stored vectors."""
        return self.lists_memory(rows, padded(dim), self.subquantizers) + PQ_CENTROIDS * padded(dim) * 4


IndexKind = Hnsw | Cagra | Ivf | IvfRaBitQ | IvfPq


def lists_for(rows: int) -> int:
    """Number of lists for that many vectors: 4 sqrt(n), the least that FAISS's guidance names, with enough training
    vectors for each. More lists make building slower, and a graph over centroids makes them no faster to search."""
    return max(1, min(int(4 * math.sqrt(rows)), rows // TRAINING_PER_LIST))


def padded(dim: int) -> int:
    """Dimension that vectors are rotated into for product quantisation, which needs one with many divisors."""
    return math.ceil(dim / 64) * 64 if dim > 64 else math.ceil(dim / 8) * 8


def needs_graph(lists: int) -> bool:
    """Whether the centroids of new inverted lists are searched by a graph."""
    return lists >= GRAPH_FROM_LISTS


_LISTS = r"IVF(?P<lists>\d+)(?P<graph>_HNSW32)?"
_NAMES: dict[str, Callable[[re.Match[str]], IndexKind]] = {
    r"IDMap2,HNSW(\d+),(Flat|SQfp16)": lambda match: Hnsw(neighbours=int(match[1]), codes=match[2]),
    r"CAGRA(\d+)": lambda match: Cagra(degree=int(match[1])),
    rf"{_LISTS},SQfp16": lambda match: Ivf(lists=int(match["lists"]), graph=match["graph"] is not None),
    rf"RR,{_LISTS},RaBitQ(?P<bits>\d+)": lambda match: IvfRaBitQ(
        lists=int(match["lists"]), graph=match["graph"] is not None, bits=int(match["bits"])
    ),
    rf"RR,{_LISTS},PQ(?P<bytes>\d+)": lambda match: IvfPq(
        lists=int(match["lists"]), graph=match["graph"] is not None, subquantizers=int(match["bytes"])
    ),
}


@cache
def kind_of(factory: str) -> IndexKind:
    """The kind that a manifest names by its factory string.

    Raises:
        StoreError: a string that this version does not write.
    """
    for pattern, make in _NAMES.items():
        if match := re.fullmatch(pattern, factory):
            return make(match)
    raise StoreError(f"{factory!r} is not a kind of approximate index that this version reads.")


def runs_on_gpu(kind: IndexKind, *, candidates: int, effort: int) -> bool:
    """Whether FAISS has a GPU index for what was built on the CPU, and can be asked for so much of it."""
    return isinstance(kind, Ivf | IvfPq) and max(candidates, effort) <= GPU_MAX_K
