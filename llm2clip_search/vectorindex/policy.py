"""Which approximate index for how many vectors and how much memory, and when it is built again."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from llm2clip_search.base.memory import physical_bytes
from llm2clip_search.errors import StoreError
from llm2clip_search.vectorindex.kinds import (
    PQ_SIZES,
    Cagra,
    Hnsw,
    IndexKind,
    InvertedLists,
    Ivf,
    IvfPq,
    IvfRaBitQ,
    lists_for,
    needs_graph,
    padded,
)

AnnName = Literal["auto", "flat", "hnsw", "ivf", "ivfpq", "ivfrabitq", "cagra"]
ANN_NAMES: tuple[AnnName, ...] = get_args(AnnName)
CODES_FROM_DIM = 64
"""Vectors of fewer dimensions are kept as float16: the error of RaBitQ's estimate grows as their number falls."""
MEMORY_SHARE = 0.5
"""Of the machine's memory, this share may be taken if no limit was given."""


@dataclass(frozen=True, kw_only=True)
class AnnConfig:
    """When search becomes approximate, how, and how well.

    The measurements behind the choice are in docs/scale.md: at 200,000 vectors, lists of RaBitQ codes are built in half
    the time of an HNSW graph, take a seventh of its memory, are faster at equal recall, and can be filtered.
    """

    kind: AnnName = "auto"
    recall: float = 0.95
    """Recall@10 and deeper that searches aim at, measured when the index is built."""
    memory: int | None = None
    """Bytes that the approximate index may take in memory; None is half of the machine's. Stored vectors are mapped,
    and the system takes their pages back when it needs memory."""
    exact_below: int = 100_000
    """``auto`` builds nothing for fewer live rows: comparing all takes a few milliseconds."""
    tail_rows: int = 20_000
    """Up to this many new rows are searched exactly beside the index; more are added to it."""
    rebuild_growth: float = 2.0
    """The index is built from scratch when live rows have grown by this factor, or when half its vectors are dead; of a
    graph a fifth, because its walk passes through the dead."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ANN_NAMES:
            raise StoreError(f"There is no kind of index {self.kind!r}; there are {', '.join(ANN_NAMES)}.")
        if not 0.0 < self.recall < 1.0:
            raise StoreError(
                f"A recall of {self.recall} cannot be aimed at; it must be between 0 and 1.",
                hint="Use --ann flat for exact search.",
            )

    def kind_for(self, rows: int, dim: int) -> IndexKind | None:
        """The kind of index for that many vectors; None is exact search.

        Raises:
            StoreError: no index of the kind fits in memory, or it needs more vectors.
        """
        if self.kind == "flat" or rows == 0 or (self.kind == "auto" and rows < self.exact_below):
            return None
        kinds = list(_kinds(self.kind, rows, dim))
        if (needed := min(kind.min_rows for kind in kinds)) > rows:
            raise StoreError(
                f"An index of kind {self.kind} is trained on at least {needed} vectors, but there are {rows}.",
                hint="Use --ann auto, which searches small collections exactly.",
            )
        fitting = next((kind for kind in kinds if kind.memory(rows, dim) <= self.limit), None)
        if fitting is None:
            least = min(kinds, key=lambda kind: kind.memory(rows, dim))
            raise StoreError(
                f"No index of kind {self.kind} for {rows:,} vectors of {dim} dimensions fits in {_size(self.limit)};"
                f" the smallest, {least.factory}, takes {_size(least.memory(rows, dim))}.",
                hint="Allow more with --memory, or use --ann flat for exact search.",
            )
        return fitting

    @property
    def limit(self) -> float:
        """Bytes that the approximate index may take; no limit where none was given and the system does not say."""
        if self.memory is not None:
            return self.memory
        return MEMORY_SHARE * physical_bytes() or math.inf

    def keeps(self, built: IndexKind, *, rows: int, dim: int, vectors: int, trained_on: int) -> bool:
        """True if an index is good enough to go on with.

        Args:
            rows: live rows now.
            vectors: vectors in the index, dead ones included.
            trained_on: live rows when it was built.
        """
        wanted = self.kind_for(rows, dim)
        grown = rows > self.rebuild_growth * trained_on
        mostly_dead = vectors > (2 if isinstance(built, InvertedLists) else 1.25) * rows
        fits = built.memory(max(rows, vectors), dim) <= self.limit
        return type(wanted) is type(built) and fits and not grown and not mostly_dead


def _kinds(name: AnnName, rows: int, dim: int) -> Iterator[IndexKind]:
    """Kinds that a name stands for, the most exact first."""
    lists = lists_for(rows)
    graph = needs_graph(lists)
    if name == "auto":
        name = "ivfrabitq" if dim >= CODES_FROM_DIM else "ivf"
    if name == "hnsw":
        yield Hnsw()
    elif name == "cagra":
        yield Cagra()
    elif name == "ivf":
        yield Ivf(lists=lists, graph=graph)
    elif name == "ivfpq":
        width = padded(dim)
        for count in PQ_SIZES:
            if width % count == 0 and (2 * count <= width or count == 1):
                yield IvfPq(lists=lists, graph=graph, subquantizers=count)
    else:
        for bits in (2, 1):
            yield IvfRaBitQ(lists=lists, graph=graph, bits=bits)


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
