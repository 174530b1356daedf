"""A serving engine that searches for an index which is at hand as well."""

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from llm2clip_search.base.lazy import Lazy
from llm2clip_search.engine.columns import column_types
from llm2clip_search.engine.engine_plan import EngineFacts, plan_engine
from llm2clip_search.engine.plan import SearchPlan
from llm2clip_search.engine.query import Find
from llm2clip_search.engine.time_limit import TIME_LIMIT_S
from llm2clip_search.errors import EngineError
from llm2clip_search.store import Snapshot
from llm2clip_search.store.published import check_published
from llm2clip_search.vectorindex.conditions import (
    AllOf,
    AnyOf,
    Compared,
    Condition,
    Null,
    UntranslatableError,
    all_of,
    any_of,
)
from llm2clip_search.vectorindex.exact import ExactIndex, rank_again
from llm2clip_search.vectorindex.serving.engine import ServingEngine, TypedCondition
from llm2clip_search.vectorindex.serving.state import Published

if TYPE_CHECKING:
    from llm2clip_search.engine.translated import Translator

READ_AGAIN_S = 30.0
"""Seconds after which it is read again what an engine holds that lags behind the index."""
WIDER = 4
"""Factor by which a search is widened whose results do not count any more."""
_IS_TEXT = Compared(column="modality", how="=", value="text")
_IS_IMAGE = any_of([Compared(column="modality", how="!=", value="text"), Null(column="modality")])


class Served:
    """An engine, and conditions as it can be asked them."""

    def __init__(self, engine: ServingEngine, schema: pa.Schema, seconds: float) -> None:
        """An engine with an index's rows.

        Args:
            schema: of the index's metadata.
            seconds: the most that reading a condition may take.
        """
        self.engine = engine
        # Nothing here refers back to this object, so that an engine is let go with its last user.
        self._types = types = column_types(schema)
        self._translator = Lazy(lambda: _translator(types, seconds))

    def condition(self, where: str | None, find: Find | None, held: frozenset[str]) -> TypedCondition | None:
        """The condition that an engine is asked; None if any row counts.

        Args:
            held: modalities of the index.

        Raises:
            ConditionError: as `Filter.ids`.
            UntranslatableError: the engine lacks a part of it.
        """
        parts = list[Condition]()
        if where is not None:
            parts.append(self._translator().translate(where))
        if find is not None and held != {find.removesuffix("s")}:
            parts.append(_IS_TEXT if find == "texts" else _IS_IMAGE)
        if not parts:
            return None
        condition = TypedCondition(all_of(parts), self._types)
        self.engine.check(condition)
        return condition


def state_of(engine: ServingEngine) -> Published:
    """What was published to an engine.

    Raises:
        EngineError: nothing, or the engine cannot be asked.
    """
    state = engine.state()
    if state is None:
        raise EngineError(f"{engine.name} does not exist.", hint="'llm2clip-search publish --to URL' creates it.")
    return state


class Asked:
    """The rows that a query's condition leaves, as an engine is asked for them."""

    def __init__(
        self, condition: TypedCondition | None, ids: Callable[[], np.ndarray], *, count: int | None, reason: str = ""
    ) -> None:
        """The rows of a condition, or of some ids.

        Args:
            condition: None if the engine cannot be asked it.
            ids: evaluates the condition here, int64 ascending.
            count: how many rows there are, if that is known.
            reason: why there is no condition.
        """
        self.condition, self.reason = condition, reason
        self._ids, self._count = Lazy(ids), count

    @property
    def ids(self) -> np.ndarray:
        """int64 ascending."""
        return self._ids()

    def __len__(self) -> int:
        return len(self.ids) if self._count is None else self._count


class _Step:
    """What an engine holds, compared with a snapshot."""

    def __init__(self, state: Published, snapshot: Snapshot) -> None:
        self.state, self._snapshot = state, snapshot
        self.is_same = state.is_complete and state.generation == snapshot.manifest.generation
        """The engine holds the rows of the snapshot and no others."""

    @cached_property
    def later(self) -> np.ndarray:
        """Ids of live rows that the engine may hold otherwise, or not at all: int64 ascending."""
        if self.is_same:
            return np.empty(0, dtype=np.int64)
        shards = [shard for shard in self._snapshot.shards if shard.name not in self.state.shards]
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *(shard.live_ids for shard in shards)]))

    @cached_property
    def absent(self) -> np.ndarray:
        """Those of them that it may not hold at all."""
        return self.later[self.later >= self.state.next_id] if self.state.is_complete else self.later

    def tail(self, matches: "Asked | None") -> np.ndarray:
        """Ids of matching rows that are compared here, int64 ascending."""
        if matches is None or not len(self.later):
            return self.absent
        return matches.ids[np.isin(matches.ids, self.later, assume_unique=True)]


class EngineBeside:
    """Searches an engine for the rows of a snapshot.

    What was committed after the publish is compared exactly; what was deleted since is left out. Scores are those of
    stored vectors.
    """

    def __init__(self, engine: ServingEngine, snapshot: Snapshot, seconds: float = TIME_LIMIT_S) -> None:
        """Read what was published.

        Raises:
            EngineError: nothing, or something else than the index.
        """
        self._served, self._snapshot = Served(engine, snapshot.schema, seconds), snapshot
        self._exact = ExactIndex(snapshot, snapshot.manifest.live)
        self._step = self._compared()

    @property
    def name(self) -> str:
        """URL of the engine."""
        return self._served.engine.name

    def _compared(self) -> _Step:
        state = state_of(self._served.engine)
        check_published(self._snapshot, state, self.name)
        self._read = time.monotonic()
        return _Step(state, self._snapshot)

    def _now(self) -> _Step:
        """What the engine holds; a publish may have come after the snapshot."""
        if not self._step.is_same and time.monotonic() - self._read > READ_AGAIN_S:
            self._step = self._compared()
        return self._step

    def asked(
        self, where: str | None, find: Find | None, among: np.ndarray | None, ids: Callable[[], np.ndarray | None]
    ) -> Asked | None:
        """The rows that meet a condition; None if these are all rows.

        Args:
            ids: evaluates all of it on this machine; None are all rows.

        Raises:
            ConditionError: a condition that is wrong or not allowed.
        """
        held, served, step = self._snapshot.modalities, self._served, self._now()
        if find is not None and find.removesuffix("s") not in held:
            return as_asked(np.empty(0, dtype=np.int64))
        reason, condition = "", None
        try:
            condition = served.condition(where, find, held)
            if among is None and condition is None:
                return None
            has_moved = step.state.base != self._snapshot.base.as_posix()
            if condition is not None and has_moved and "path" in columns_in(condition.condition):
                reason = f"The paths in {self.name} start from {step.state.base}."
        except UntranslatableError as error:
            reason = str(error)
        if among is not None:
            reason = "The rows are chosen by their ids."

        def evaluated() -> np.ndarray:
            found = ids()
            return self._snapshot.live_ids if found is None else found

        if reason or condition is None:
            return Asked(None, evaluated, count=None, reason=reason)
        count = served.engine.count(condition) if step.is_same else None
        return Asked(condition, evaluated, count=count)

    def plan(self, k: int, matches: Asked | None, recall: float) -> SearchPlan:
        """How to find the ``k`` best rows."""
        step, live = self._now(), self._snapshot.manifest.live
        facts = EngineFacts(
            name=self.name,
            measured=step.state.measured,
            rows=live,
            most_ids=self._served.engine.most_ids,
            ms_per_id=self._served.engine.ms_per_id,
            is_at_hand=True,
        )
        return plan_engine(
            facts,
            matches=None if matches is None else len(matches),
            k=k,
            recall=recall,
            untranslated="" if matches is None else matches.reason,
            tail=len(step.tail(matches)),
            slack=min(k, max(0, step.state.rows - (live - len(step.absent)))),
        )

    def search(
        self, queries: np.ndarray, k: int, plan: SearchPlan, matches: Asked | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `SearchIndex.candidates`."""
        engine, step, width = self._served.engine, self._step, plan.candidates
        condition, allowed = None, None
        if matches is not None:
            condition = matches.condition
            allowed = matches.ids if condition is None else None
        counted = None if step.is_same else self._snapshot.live_ids if matches is None else matches.ids
        while True:
            _, found = engine.search(queries, width, condition=condition, allowed=allowed, effort=plan.effort or None)
            held = found >= 0
            kept = held if counted is None else held & np.isin(found, counted)
            lacking = (kept.sum(axis=1) < k) & held.all(axis=1) & (kept != held).any(axis=1)
            if not lacking.any() or width >= step.state.rows:
                break
            width *= WIDER
        found = np.where(kept, found, -1)
        if len(tail := step.tail(matches)):
            _, newest = self._exact.search(queries, min(k, len(tail)), allowed=tail)
            found = np.concatenate([found, newest], axis=1)
        return rank_again(self._snapshot, queries, found, k)


def as_asked(ids: np.ndarray) -> Asked:
    """Rows that are given by their ids, int64 ascending."""
    return Asked(None, lambda: ids, count=len(ids), reason="The rows are chosen by their ids.")


def columns_in(condition: Condition) -> frozenset[str]:
    """Names of the columns that a condition compares."""
    if isinstance(condition, AllOf | AnyOf):
        return frozenset[str]().union(*map(columns_in, condition.parts))
    return frozenset({condition.column})


def _translator(types: dict[str, pa.DataType], seconds: float) -> "Translator":
    from llm2clip_search.engine.translated import Translator

    return Translator(types, time_limit_s=seconds)
