"""A serving engine searched by itself: its rows and vectors stand for those of the index, which is not at hand."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa

from llm2clip_search.encoders import Encoder
from llm2clip_search.engine.candidates import Matches
from llm2clip_search.engine.engine_plan import EngineFacts, plan_engine
from llm2clip_search.engine.plan import SearchPlan
from llm2clip_search.engine.query import Find, Query
from llm2clip_search.engine.searcher import Searcher
from llm2clip_search.engine.served import Asked, Served, as_asked, state_of
from llm2clip_search.engine.time_limit import TIME_LIMIT_S
from llm2clip_search.errors import ConditionError, EngineError, StoreError
from llm2clip_search.store import Manifest, Snapshot, SourceEntry
from llm2clip_search.store.manifest import ColumnEntry
from llm2clip_search.store.names import decode
from llm2clip_search.store.schema import metadata_schema
from llm2clip_search.vectorindex.conditions import UntranslatableError
from llm2clip_search.vectorindex.policy import AnnConfig
from llm2clip_search.vectorindex.serving.engine import ServingEngine
from llm2clip_search.vectorindex.serving.payload import published_schema

if TYPE_CHECKING:
    from llm2clip_search.engine.filter import Filter

BLOCK_ROWS = 4_096
"""Rows that are read from an engine at a time."""
_NEEDED = "give the folder of the index as well, with --index"


class ServedRows:
    """The rows of an engine as `candidates.SearchedRows`."""

    def __init__(self, engine: ServingEngine) -> None:
        """Read what was published.

        Raises:
            EngineError: nothing, or the engine cannot be reached.
        """
        self._engine, self.state = engine, state_of(engine)
        state = self.state
        self.folder = engine.name
        self.manifest = Manifest(
            generation=state.generation,
            model=state.model,
            dim=state.dim,
            dtype=state.dtype,
            next_id=state.next_id,
            live=engine.count(),
            sources=tuple(SourceEntry(**{**each, "exclude": (), "mounts": ()}) for each in state.sources),
            base=state.base,
            columns=tuple(ColumnEntry(**each) for each in state.columns),
        )

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns of the metadata."""
        return metadata_schema(self.manifest.columns)

    @property
    def modalities(self) -> frozenset[str]:
        """What the rows are, by what the sources were read as."""
        return frozenset(source.modality for source in self.manifest.sources) or frozenset({"image"})

    def __contains__(self, identifier: int) -> bool:
        return 0 <= identifier < self.manifest.next_id and len(self._engine.vectors(np.array([identifier]))[0]) > 0

    def blocks(self, ids: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Live rows of those in ``ids``, `BLOCK_ROWS` at a time."""
        if ids is None:
            raise self.refusal("comparing all rows")
        wanted = np.unique(ids)
        for start in range(0, len(wanted), BLOCK_ROWS):
            found, vectors = self._engine.vectors(wanted[start : start + BLOCK_ROWS])
            if len(found):
                yield found, vectors

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """float32 ``[len(ids), dim]`` in the order of ``ids``.

        Raises:
            StoreError: an id that the engine does not hold.
        """
        wanted, inverse = np.unique(np.asarray(ids, dtype=np.int64), return_inverse=True)
        parts = list(self.blocks(wanted))
        found = np.concatenate([np.empty(0, dtype=np.int64), *(held for held, _ in parts)])
        if len(found) < len(wanted):
            raise StoreError(f"{self.folder} holds no id {np.setdiff1d(wanted, found)[0]} any more.")
        if not parts:
            return np.empty((0, self.manifest.dim), dtype=np.float32)
        vectors: np.ndarray = np.concatenate([block for _, block in parts])[inverse]
        return vectors

    def rows(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Metadata of some rows, in the order of ``ids``.

        Raises:
            StoreError: an id that the engine does not hold.
        """
        schema = published_schema(self.schema)
        found = self._engine.rows(sorted(set(ids)), schema)
        if absent := [each for each in ids if each not in found]:
            raise StoreError(f"{self.folder} holds no id {absent[0]} any more.")
        return [{name: found[each].get(name) for name in self.schema.names} for each in ids]

    def located(self, path: str) -> str:
        """Paths in an engine are whole."""
        return decode(path)

    def refusal(self, what: str) -> EngineError:
        """Why something is not possible."""
        return EngineError(
            f"Only what {self.folder} can answer is possible without the index, but {what} needs the index itself.",
            hint=f"To do that, {_NEEDED}.",
        )


class ServedIndex(Searcher):
    """What was published to a serving engine, searched without the index.

    Ranking, paging, fusion, grouping and hits are those of a `SearchIndex`: candidates are ranked again by the vectors
    that the engine holds. Facets, maps and browsing need the index.
    """

    def __init__(
        self, engine: ServingEngine, encoder: Encoder | None = None, *, condition_seconds: float = TIME_LIMIT_S
    ) -> None:
        """Without an encoder it is searched by ids only.

        Raises:
            EngineError: the engine cannot be reached, or nothing was published to it.
        """
        super().__init__(encoder)
        self.snapshot = ServedRows(engine)
        self._engine, self._condition_seconds = engine, condition_seconds
        self._served = Served(engine, self.snapshot.schema, condition_seconds)

    def searched_with(self, encoder: Encoder) -> "ServedIndex":
        """The same with an encoder."""
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__
        Searcher.__init__(other, encoder)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy opens the engine again."""
        return _opened_again, (self._engine.name, self._encoder, self._condition_seconds)

    @property
    def parts(self) -> tuple["ServedIndex"]:
        """The engine itself."""
        return (self,)

    @property
    def indexed(self) -> Snapshot:
        """Not at hand.

        Raises:
            EngineError: always.
        """
        raise self.snapshot.refusal("this")

    @property
    def filter(self) -> "Filter":
        """Not at hand.

        Raises:
            EngineError: always.
        """
        raise self.snapshot.refusal("counting and browsing")

    def beside(self, columns: Iterable[pa.Field]) -> NoReturn:
        """Not at hand.

        Raises:
            EngineError: always.
        """
        raise self.snapshot.refusal("searching several together")

    def matches(
        self, where: str | None, find: Find | None = None, among: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Ids are not listed.

        Raises:
            EngineError: always.
        """
        raise self.snapshot.refusal("listing rows")

    def limited(self, where: str | None, find: Find | None, among: np.ndarray | None) -> Matches | None:
        """The rows that meet a condition.

        Raises:
            ConditionError: a condition that is wrong, not allowed, or that the engine lacks.
            EngineError: chosen rows that have to meet a condition as well, or too many.
        """
        held = self.snapshot.modalities
        if find is not None and find.removesuffix("s") not in held:
            return as_asked(np.empty(0, dtype=np.int64))
        try:
            condition = self._served.condition(where, find, held)
        except UntranslatableError as error:
            raise ConditionError(
                f"{self.snapshot.folder} cannot answer the condition: {error}", hint=f"To search with it, {_NEEDED}."
            ) from error
        if among is not None:
            if condition is not None:
                raise self.snapshot.refusal("a condition on rows that are chosen by their ids")
            if len(among) > self._engine.most_ids:
                raise self.snapshot.refusal(f"searching {len(among):,} rows that are chosen by their ids")
            return as_asked(self._engine.vectors(among)[0])
        if condition is None:
            return None
        return Asked(condition, self._no_ids, count=self._engine.count(condition))

    def _no_ids(self) -> np.ndarray:
        raise self.snapshot.refusal("listing rows")

    def plan(self, query: Query, depth: int, matches: Matches | None) -> SearchPlan:
        """How to find the ``depth`` best rows for a vector of a query."""
        facts = EngineFacts(
            name=self._engine.name,
            measured=self.snapshot.state.measured,
            rows=self.snapshot.manifest.live,
            most_ids=self._engine.most_ids,
            ms_per_id=self._engine.ms_per_id,
            is_at_hand=False,
        )
        return plan_engine(
            facts,
            matches=None if matches is None else len(matches),
            k=depth,
            recall=AnnConfig().recall if query.recall is None else query.recall,
        )

    def candidates(
        self, vectors: np.ndarray, depth: int, plan: SearchPlan, matches: Matches | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``depth`` best rows as the engine finds them; `Rows` ranks them again."""
        assert matches is None or isinstance(matches, Asked), "`limited` made it"
        k = min(depth, plan.matches)
        if plan.strategy == "nothing":
            return np.empty((len(vectors), 0), np.float32), np.empty((len(vectors), 0), np.int64)
        condition = None if matches is None else matches.condition
        allowed = matches.ids if matches is not None and condition is None else None
        return self._engine.search(vectors, k, condition=condition, allowed=allowed, effort=plan.effort or None)


def _opened_again(engine: str, encoder: Encoder | None, condition_seconds: float) -> ServedIndex:
    from llm2clip_search.vectorindex.serving.opening import open_engine

    return ServedIndex(open_engine(engine), encoder, condition_seconds=condition_seconds)
