"""Kinds of approximate index with their parameters, as typed values; FAISS's factory strings are read only here."""

import math
import re
from dataclasses import dataclass

from llm2clip_search.errors import StoreError


@dataclass(frozen=True, kw_only=True)
class Hnsw:
    """A graph of neighbours over float32 vectors (Malkov and Yashunin, arXiv 1603.09320)."""

    neighbours: int = 32
    """Links per vector, HNSW's M."""
    ef_search: int = 128
    """Candidates that a search keeps, at effort 1."""

    name = "hnsw"

    @property
    def factory(self) -> str:
        """FAISS's factory string, which manifests and tables show."""
        return f"IDMap2,HNSW{self.neighbours},Flat"

    def width(self, effort: float, k: int = 1) -> int:
        """``efSearch`` at an effort; FAISS raises one below ``k`` to ``k`` itself."""
        return max(k, round(self.ef_search * effort))


@dataclass(frozen=True, kw_only=True)
class Ivf:
    """Inverted lists of float16 vectors around k-means centroids."""

    lists: int

    name = "ivf"

    @property
    def factory(self) -> str:
        """FAISS's factory string, which manifests and tables show."""
        return f"IVF{self.lists},SQfp16"

    @property
    def probes(self) -> int:
        """Lists that a search reads, at effort 1."""
        return min(self.lists, max(16, self.lists // 32))

    def width(self, effort: float, k: int = 1) -> int:
        """``nprobe`` at an effort."""
        return min(self.lists, max(1, round(self.probes * effort)))

    @classmethod
    def for_rows(cls, rows: int) -> "Ivf":
        """8 sqrt(n) lists, from FAISS's guidance of 4 to 16, but at least 39 training vectors per list."""
        return cls(lists=max(1, min(int(8 * math.sqrt(rows)), rows // 39)))


IndexKind = Hnsw | Ivf


def kind_of(factory: str) -> IndexKind:
    """The kind that a manifest names by its factory string.

    Raises:
        StoreError: a string that this version does not write.
    """
    if match := re.fullmatch(r"IDMap2,HNSW(\d+),Flat", factory):
        return Hnsw(neighbours=int(match[1]))
    if match := re.fullmatch(r"IVF(\d+),SQfp16", factory):
        return Ivf(lists=int(match[1]))
    raise StoreError(f"{factory!r} is not a kind of approximate index that this version reads.")
