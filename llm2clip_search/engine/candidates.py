"""What the vectors of one query find in all indices, to any depth, scored by stored vectors."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from llm2clip_search.base.vectors import unit
from llm2clip_search.corpora.containers import container_uri
from llm2clip_search.engine.chosen import Chosen
from llm2clip_search.engine.plan import SearchPlan
from llm2clip_search.engine.query import Find, Query
from llm2clip_search.engine.ranking import Ranking, distinct, keys_of, parts_and_ids, ranked
from llm2clip_search.errors import DamagedError, QueryError
from llm2clip_search.store import Manifest, Snapshot

if TYPE_CHECKING:
    from llm2clip_search.engine.filter import Filter

COPIES = 16
"""Candidates that exact search gives beyond those wanted. Its matrix products round differently in different shards, so
that of copies of one image any may be the last that is wanted; ranked again, the one with the lowest id is."""


LONGEST = 1.01
"""Above the square of any stored vector's length, which is 1 but for rounding to float16."""


class SearchedRows(Protocol):
    """The rows of an index as a search needs them; a `store.Snapshot` is one, and so are those of a serving engine."""

    @property
    def folder(self) -> Path | str:
        """What messages call the index."""

    @property
    def manifest(self) -> Manifest:
        """Counts, model, sources and columns."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the metadata."""

    @property
    def modalities(self) -> frozenset[str]:
        """What the rows are: image or text."""

    def __contains__(self, identifier: int) -> bool:
        """True if a live row has the id."""

    def blocks(self, ids: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Live rows of those in ``ids``: int64 ``[m]`` ascending and float32 ``[m, dim]`` per block."""

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """float32 ``[len(ids), dim]`` in the order of ``ids``."""

    def rows(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Metadata of some live rows, in the order of ``ids``."""

    def located(self, path: str) -> str:
        """A metadata path as a caller can use it."""


class Matches(Protocol):
    """Rows that a search is limited to; an array of their ids is one."""

    def __len__(self) -> int:
        """How many there are."""


class Part(Protocol):
    """One index as a search over several sees it; a `search.SearchIndex` is one."""

    @property
    def snapshot(self) -> SearchedRows:
        """Its rows."""

    @property
    def indexed(self) -> Snapshot:
        """The index itself.

        Raises:
            EngineError: only a serving engine is at hand.
        """

    @property
    def filter(self) -> "Filter":
        """Conditions over its rows."""

    def beside(self, columns: Iterable[pa.Field]) -> "Part":
        """The same index for a search over several: conditions may name columns that only others have."""

    def matches(
        self, where: str | None, find: Find | None = None, among: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Ids of images, or of texts, that meet a condition, int64 ascending; None if these are all rows.

        ``among`` are ids, int64 ascending, of which the others do not count.
        """

    def limited(self, where: str | None, find: Find | None, among: np.ndarray | None) -> Matches | None:
        """The rows of `matches` as a search is limited to them; ids are not made where an engine needs none."""

    def plan(self, query: Query, depth: int, matches: Matches | None) -> SearchPlan:
        """How to find the ``depth`` best rows for a vector of a query."""

    def candidates(
        self, vectors: np.ndarray, depth: int, plan: SearchPlan, matches: Matches | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and ids int64, ``[n, at most depth]``, best first; a place without a result has id -1."""


def what_to_find(parts: Sequence[Part], find: Find | None) -> Find:
    """What a query of some indices finds, if it says nothing else: what they hold, and images if they hold both.

    Raises:
        QueryError: they hold nothing of what is asked for.
    """
    held = frozenset[str]().union(*(part.snapshot.modalities for part in parts))
    if find is None:
        return "texts" if held == {"text"} else "images"
    if find.removesuffix("s") not in held:
        folders = " and ".join(str(part.snapshot.folder) for part in parts)
        has, what = ("holds", "The index") if len(parts) == 1 else ("hold", "The indices")
        raise QueryError(
            f"{what} {folders} {has} no {find}.", hint=f"'llm2clip-search index --modality {find[:-1]}' adds them."
        )
    return find


class Rows:
    """The rows of some indices that meet one condition: searched by vectors, and read by key."""

    def __init__(
        self, parts: Sequence[Part], where: str | None, find: Find | None = None, among: Chosen | None = None
    ) -> None:
        """Evaluate the condition.

        Raises:
            QueryError: as `what_to_find` and `Part.matches`, or rows that were chosen of another number of indices.
        """
        if among is not None and len(among) != len(parts):
            raise QueryError(f"Rows are chosen of {len(among)} indices, but {len(parts)} are searched.")
        self.parts = parts
        self.find = what_to_find(parts, find)
        """What the rows are."""
        chosen: Iterable[np.ndarray | None] = repeat(None, len(parts)) if among is None else among
        self.matches: Sequence[Matches | None] = [
            self._of(part, where, each) for part, each in zip(parts, chosen, strict=True)
        ]
        """Of each index; None are all of it."""

    def _of(self, part: Part, where: str | None, among: np.ndarray | None) -> Matches | None:
        return part.limited(where, self.find, among)

    @property
    def total(self) -> int:
        """Rows that meet the condition."""
        return sum(
            part.snapshot.manifest.live if found is None else len(found)
            for part, found in zip(self.parts, self.matches, strict=True)
        )

    def plans(self, query: Query, depth: int) -> tuple[SearchPlan, ...]:
        """The plan of each index."""
        return tuple(part.plan(query, depth, found) for part, found in zip(self.parts, self.matches, strict=True))

    def search(self, vectors: np.ndarray, depth: int, plans: Sequence[SearchPlan]) -> list[Ranking]:
        """The ``depth`` best rows of all indices for each vector, float32 ``[n, dim]``.

        Scores are computed again, by `scores`, because those of two indices, or of one search and of many at once,
        may be rounded differently, and copies of an image would no longer be equal.
        """
        found: list[list[np.ndarray]] = [[] for _ in vectors]
        for number, (part, plan, matches) in enumerate(zip(self.parts, plans, self.matches, strict=True)):
            is_product = plan.ann is None and plan.device == "cpu"
            _, ids = part.candidates(vectors, depth + COPIES if is_product else depth, plan, matches)
            for row, held in enumerate(found):
                held.append(keys_of(number, ids[row][ids[row] >= 0]))
        rankings = []
        for vector, held in zip(vectors, found, strict=True):
            keys = np.sort(np.concatenate(held))
            rankings.append(ranked(keys, self.scores(vector[None, :], keys)[0], depth))
        return rankings

    def scores(self, vectors: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Cosines of vectors, float32 ``[n, dim]``, with rows, int64 ascending ``[m]``: float32 ``[n, m]``.

        They are summed in float64, row by row, as in `exact.rank_again`: equal vectors have equal scores.
        """
        out = np.empty((len(vectors), len(keys)), dtype=np.float32)
        wide = vectors.astype(np.float64)
        numbers, ids = parts_and_ids(keys)
        for number in distinct(numbers):
            of_it = slice(*np.searchsorted(numbers, [number, number + 1]))
            for found, block in self.parts[number].snapshot.blocks(ids[of_it]):
                self._check_lengths(number, found, block)
                at = of_it.start + np.searchsorted(ids[of_it], found)
                for row, vector in enumerate(wide):
                    out[row, at] = (block * vector).sum(axis=1)
        return out

    def _check_lengths(self, number: int, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Notice damage that searches bring to the top: a bit of an exponent makes a vector long.

        Raises:
            DamagedError: a stored vector, float32 ``[n, dim]``, is longer than 1 or not finite.
        """
        squares = np.einsum("nd,nd->n", vectors, vectors)
        if len(bad := np.flatnonzero(~(squares < LONGEST))):
            raise DamagedError(
                f"The vector of id {ids[bad[0]]} in {self.parts[number].snapshot.folder} is damaged: its length is"
                f" {np.sqrt(squares[bad[0]]):.3g}, not 1."
            )

    def vectors(self, keys: np.ndarray) -> np.ndarray:
        """Stored vectors of some rows, scaled to unit length: float32 ``[n, dim]``."""
        numbers, ids = parts_and_ids(keys)
        out = np.empty((len(keys), self.parts[0].snapshot.manifest.dim), dtype=np.float32)
        for number in distinct(numbers):
            of_it = numbers == number
            out[of_it] = self.parts[number].snapshot.vectors(ids[of_it].tolist())
        return unit(out)

    def contents(self, keys: np.ndarray) -> list[str]:
        """Content hashes of some rows, in their order."""
        return [row["content_hash"] for _, row in self._read(keys)]

    def files(self, keys: np.ndarray) -> list[str]:
        """The files of some rows, in their order: parts of one container have the same."""
        return [container_uri(snapshot.located(row["path"]))[0] for snapshot, row in self._read(keys)]

    def _read(self, keys: np.ndarray) -> list[tuple[SearchedRows, dict[str, Any]]]:
        """Metadata of some rows, in their order, each with its index."""
        numbers, ids = parts_and_ids(keys)
        found: dict[int, tuple[SearchedRows, dict[str, Any]]] = {}
        for number in distinct(numbers):
            places, snapshot = np.flatnonzero(numbers == number), self.parts[number].snapshot
            rows = snapshot.rows(ids[places].tolist())
            found |= {place: (snapshot, row) for place, row in zip(places.tolist(), rows, strict=True)}
        return [found[place] for place in range(len(keys))]


class ListedRows(Rows):
    """The same by their ids, for what is counted or listed without a search."""

    matches: Sequence[np.ndarray | None]
    """Ids of each index, int64 ascending; None are all of it."""

    def _of(self, part: Part, where: str | None, among: np.ndarray | None) -> np.ndarray | None:
        return part.matches(where, self.find, among)


class Candidates:
    """What one query's vectors find, asked for to growing depths."""

    def __init__(
        self,
        rows: Rows,
        query: Query,
        vectors: np.ndarray,
        plans: tuple[SearchPlan, ...],
        first: list[Ranking],
        depth: int,
    ) -> None:
        """``first`` holds the rankings of depth ``depth``, one per vector, as searched by ``plans``."""
        self.rows, self.query, self.vectors = rows, query, vectors
        self.plans = plans
        """Plans of the deepest search so far."""
        self._lists, self._least = {depth: first}, depth

    def lists(self, depth: int) -> list[Ranking]:
        """A ranking of the best rows for each vector: this many, or more if the first search went deeper."""
        depth = max(depth, self._least)
        if depth not in self._lists:
            self.plans = self.rows.plans(self.query, depth)
            self._lists[depth] = self.rows.search(self.vectors, depth, self.plans)
        return self._lists[depth]
