"""Which rows a request is about: the fields that say so, and what the engine is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from llm2clip_search.server.endpoint import Call
from llm2clip_search.server.hits import rows_of
from llm2clip_search.server.opened import Opened
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.values import Id

if TYPE_CHECKING:
    from llm2clip_search.engine import Chosen, Condition, Searcher
    from llm2clip_search.engine.query import Find

MOST_CONDITIONS = 64
MOST_CORNERS = 2_000
"""Of the polygon of an area."""
MOST_IDS = 100_000

Text = Annotated[str, Meta(max_length=4096)]
Scalar = Text | bool | int | float
Point = Annotated[list[float], Meta(min_length=2, max_length=2)]
Operation = Literal[
    "=",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "in",
    "not_in",
    "between",
    "contains",
    "not_contains",
    "starts_with",
    "ends_with",
    "has",
    "under",
    "near",
    "within",
    "is_null",
    "is_not_null",
]


class ConditionValue(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A comparison of a column."""

    column: Annotated[str, Meta(max_length=256)]
    """A column of the index, or ``place`` for latitude and longitude together."""
    op: Operation
    """``contains``, ``not_contains``, ``starts_with`` and ``ends_with`` ignore case; ``has`` looks for an item of a
    list; ``under`` is a folder or file with all that is below it."""
    value: Scalar | list[Scalar] | dict[str, float] | None = None
    """Dates are text, and may be periods such as ``2026-11``. Several for ``in`` and ``not_in``, low and high for
    ``between``, none for ``is_null`` and ``is_not_null``; latitude, longitude and km for ``near``; south, west, north
    and east for ``within``."""


class Filtered(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which rows count; all conditions have to hold."""

    find: Literal["images", "texts"] | None = None
    where: str | None = None
    """SQL condition."""
    conditions: Annotated[list[ConditionValue], Meta(max_length=MOST_CONDITIONS)] = []
    area: Annotated[list[Point], Meta(min_length=3, max_length=MOST_CORNERS)] | None = None
    """A polygon on the map of the corpus."""
    ids: Annotated[list[Id], Meta(max_length=MOST_IDS)] | None = None
    """No other rows than these; ids of rows that do not exist are ignored."""


class Without(Struct, kw_only=True, frozen=True):
    """What one condition removes; one of the first four says which, and ``area`` and ``ids`` together do."""

    condition: ConditionValue | None = None
    where: str | None = None
    area: bool = False
    ids: bool = False
    matches: int
    """Rows that meet all the others."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A filter as the engine takes it."""

    find: "Find | None"
    where: str | None
    among: "Chosen | None"
    asked: Filtered
    written: tuple[str, ...]
    """Its form as SQL, condition by condition."""

    def pieces(self, searcher: "Searcher") -> list[tuple[ConditionValue | str, str]]:
        """The conditions one by one, as values of the API, or as SQL where no form says the same; and each as SQL.

        Only an empty result and a form need them, and reading SQL takes milliseconds.
        """
        found: list[tuple[ConditionValue | str, str]] = list(zip(self.asked.conditions, self.written, strict=True))
        if where := _sql(self.asked):
            form = searcher.conditions(where)
            found += [(where, where)] if form is None else [(api_condition(c), searcher.where([c])) for c in form]
        return found

    def without(self, searcher: "Searcher", *, seconds: float) -> list[Without]:
        """How many rows each condition alone removes; empty if that takes too long."""
        from llm2clip_search.errors import ConditionError

        pieces = self.pieces(searcher)
        written = [sql for _, sql in pieces]
        try:
            found = searcher.count_without(written, find=self.find, among=self.among, seconds=seconds)
        except ConditionError:
            return []
        said = [
            Without(where=asked, matches=matches)
            if isinstance(asked, str)
            else Without(condition=asked, matches=matches)
            for (asked, _), matches in zip(pieces, found, strict=False)
        ]
        if self.among is None:
            return said
        return [
            *said,
            Without(area=self.asked.area is not None, ids=self.asked.ids is not None, matches=found[-1]),
        ]


def selected(asked: Filtered, call: Call, opened: Opened) -> Selection:
    """What a filter asks the engine for.

    Raises:
        Problem: ``bad-condition`` with the field that is wrong, or as of the map for an area.
    """
    searcher = opened.searcher
    where = _sql(asked)
    conditions = [engine_condition(each) for each in asked.conditions]
    written = [searcher.where([condition]) for condition in conditions] if _fits(searcher, conditions) else []
    if where and written:  # by itself it has to be a condition: "true) OR (true" would undo the others
        searcher.conditions(where)
    refuse_hidden(opened, [*written, *([where] if where else [])])
    parts = [*written, *([f"({where}\n)"] if where else [])]
    return Selection(
        find=asked.find,
        where=(where if where and not written else " AND ".join(parts)) or None,
        among=_among(asked, call, opened),
        asked=asked,
        written=tuple(written),
    )


def _sql(asked: Filtered) -> str:
    return (asked.where or "").strip()


def _fits(searcher: "Searcher", conditions: Sequence["Condition"]) -> bool:
    """True if every condition fits its column.

    Raises:
        Problem: ``bad-condition``, which names the one that does not.
    """
    from llm2clip_search.errors import ConditionError

    try:
        searcher.where(conditions)
    except ConditionError as error:
        raise Problem("bad-condition", str(error), parameter="conditions") from error
    return True


def refuse_hidden(opened: Opened, conditions: Sequence[str]) -> None:
    """Refuse conditions from whose answers one could tell where pictures were taken, if that is hidden.

    Raises:
        Problem: ``bad-condition``.
    """
    for condition in conditions if opened.hidden else ():
        if any(map(opened.hides, opened.searcher.parts[0].filter.read(condition).columns)):
            raise Problem("bad-condition", "This server does not say where pictures were taken.", parameter="where")


def _among(asked: Filtered, call: Call, opened: Opened) -> "Chosen | None":
    """The rows that an area and a list of ids leave; None if neither is given."""
    import numpy as np

    from llm2clip_search.engine import Chosen

    area = None if asked.area is None else call.service.map.rows_within(asked.area, opened)
    if asked.ids is None:
        return None if area is None else Chosen(area)
    named = rows_of(asked.ids, opened, parameter="ids")
    return Chosen(named if area is None else [np.intersect1d(*each) for each in zip(named, area, strict=True)])


def engine_condition(given: ConditionValue) -> "Condition":
    """A condition of the API as one of the engine."""
    from llm2clip_search.engine import Condition

    return Condition(column=given.column, op=given.op, value=given.value)


def api_condition(condition: "Condition") -> ConditionValue:
    """A condition of the engine as one of the API."""
    shown: dict[str, Any] = condition.to_dict()
    return ConditionValue(**shown)
