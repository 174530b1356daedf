"""From a SQL condition to one that serving engines can be asked, for all that such a condition can say.

The tree that `comparison` understood is read from its root down. In SQL a part is true, false or null, so each is asked
for the rows in which it has one of the two values: NOT asks for the other value, AND and OR change places (De Morgan),
and ``IS NOT TRUE`` asks for false or null. What remains are comparisons of one column with a constant, which are null
only where the column is. Parts without columns, such as ``now() - INTERVAL 7 DAY``, are evaluated once by DuckDB.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from llm2clip_search.engine.condition import Checked, read_condition
from llm2clip_search.engine.constants import Constants, asks_for_time, literal
from llm2clip_search.engine.database import VIEW, connect
from llm2clip_search.engine.filter import sentence_of
from llm2clip_search.engine.kinds import FUNCTIONS, NOW, Node, kind_of_cast, kind_of_column, name_of, parts_of, shown
from llm2clip_search.engine.placing import Place, is_text, place_of
from llm2clip_search.engine.text_tests import TEXT_TESTS, text_test
from llm2clip_search.engine.time_limit import TIME_LIMIT_S, time_limit
from llm2clip_search.errors import ConditionError, QueryError
from llm2clip_search.store.names import encode
from llm2clip_search.vectorindex.conditions import (
    EVERY_ROW,
    MAX_DEPTH,
    NO_ROW,
    Compared,
    Comparison,
    Condition,
    Listing,
    Null,
    UntranslatableError,
    all_of,
    any_of,
    depth,
)

MAX_KEPT = 100
"""Conditions that are kept, because reading one takes several milliseconds; not those that ask for the time."""
MAX_PARTS = 2000
"""Parts that are read: tests for null of conditions within each other would double them at each level."""
_COMPARISONS: Mapping[str, Comparison] = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "!=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_OPPOSITE: Mapping[Comparison, Comparison] = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED: Mapping[Comparison, Comparison] = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_HOLD = frozenset({"contains", "list_contains", "list_has", "array_contains"})
_TESTS = frozenset({"OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "COMPARE_IN", "COMPARE_NOT_IN"})
_ILIKE = frozenset({"~~*", "!~~*", "ilike_escape", "not_ilike_escape"})


class Translator:
    """Conditions over some columns; no rows are needed. Several threads may ask at the same time."""

    def __init__(
        self,
        types: Mapping[str, pa.DataType],
        *,
        absent: Mapping[str, pa.DataType] | None = None,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        """A translator for an index.

        Args:
            types: the columns that conditions may name (`columns.column_types`).
            absent: columns of other indices, which are null in every row of this one.
            time_limit_s: the most seconds that one condition may take.
        """
        self._types = {**(absent or {}), **types}
        self._absent = frozenset(absent or ()) - types.keys()
        self._limit = time_limit_s
        self._kinds = {name.casefold(): kind_of_column(arrow) for name, arrow in self._types.items()}
        self._connection = connect([])
        nulls = {name: pa.nulls(1, _as_read(arrow)) for name, arrow in self._types.items()}
        self._connection.register("nulls", pa.table(nulls))
        self._connection.execute(f"CREATE TABLE {VIEW} AS SELECT * FROM nulls")
        self._kept: dict[str, Condition] = {}

    def translate(self, where: str) -> Condition:
        """The condition that the same rows meet.

        Raises:
            ConditionError: as `Filter.ids`.
            UntranslatableError: it has a part that no engine could be asked, which is named with the reason.
        """
        import duckdb

        if (kept := self._kept.get(where)) is not None:
            return kept
        try:
            with self._connection.cursor() as cursor, time_limit(cursor, self._limit):
                meant = self._checked(cursor, where).meant
                found = _Reader(cursor, self._types, self._absent).where(meant, True)
                too_deep = depth(found) > MAX_DEPTH
        except RecursionError:
            too_deep = True
        except duckdb.InterruptException as error:
            raise ConditionError(f"The condition took longer than {self._limit:.2g} s.") from error
        if too_deep:
            raise UntranslatableError(f"The condition has more than {MAX_DEPTH} levels of AND and OR.")
        if not asks_for_time(meant):
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[where] = found
        return found

    def _checked(self, cursor: Any, where: str) -> Checked:
        """A condition that DuckDB can run, tried on a row of nulls."""
        import duckdb

        try:
            checked = read_condition(cursor, encode(where), self._kinds)
            cursor.execute(f"SELECT 1 FROM {VIEW} WHERE (\n{checked.sql}\n)")
        except QueryError as error:
            raise ConditionError(str(error), hint=error.hint) from error
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            raise ConditionError(sentence_of(where, error, self._types)) from error
        return checked


def _as_read(arrow: pa.DataType) -> pa.DataType:
    """The type of a column as DuckDB reads it from Parquet, which has no seconds."""
    is_coarse = pa.types.is_timestamp(arrow) and arrow.unit in ("s", "ms")
    return pa.timestamp("us", arrow.tz) if is_coarse else arrow


class _Reader:
    """One condition."""

    def __init__(self, cursor: Any, types: Mapping[str, pa.DataType], absent: frozenset[str]) -> None:
        self._constants, self._types, self._absent = Constants(cursor), types, absent
        self._names = {name.casefold(): name for name in types}
        self._left = MAX_PARTS

    def where(self, node: Node, value: bool, or_null: bool = False) -> Condition:
        """The rows in which a part has a value, or is null if that counts, too."""
        self._left -= 1
        if self._left < 0:
            raise UntranslatableError("The condition has too many parts.")
        kind, column = node["class"], self._column(node)
        found: Condition
        if self._is_constant(node):
            known = self._constants.truth(node)
            found = EVERY_ROW if (or_null if known is None else known == value) else NO_ROW
        elif kind == "CONJUNCTION":
            join = all_of if (node["type"] == "CONJUNCTION_AND") == value else any_of
            found = join([self.where(child, value, or_null) for child in node["children"]])
        elif kind == "COMPARISON":
            found = self._comparison(node["type"], node["left"], node["right"], value, or_null)
        elif kind == "BETWEEN":
            found = self._between(node["input"], node["lower"], node["upper"], value, or_null)
        elif kind == "OPERATOR" and node["type"] in _TESTS:
            found = self._operator(node["type"], node["children"], value, or_null)
        elif kind == "FUNCTION":
            found = self._function(node, value, or_null)
        elif kind == "CAST" and self._is_truth(node):
            found = self.where(node["child"], value, or_null)
        elif column is not None and pa.types.is_boolean(self._types[column]):
            found = self._leaf(column, Compared(column=column, how="=" if value else "!=", value=True), or_null)
        else:
            raise _no_counterpart(node)
        return found

    def _operator(self, name: str, children: Sequence[Node], value: bool, or_null: bool) -> Condition:
        if name == "OPERATOR_NOT":
            return self.where(children[0], not value, or_null)
        if name in ("COMPARE_IN", "COMPARE_NOT_IN"):
            return self._any_of(children[0], children[1:], value == (name == "COMPARE_IN"), or_null)
        return self._null(children[0], value == (name == "OPERATOR_IS_NULL"))

    def _null(self, node: Node, wanted: bool) -> Condition:
        """The rows in which a part is null, or those in which it is not."""
        if self._is_constant(node):
            return EVERY_ROW if self._constants.is_null(node) == wanted else NO_ROW
        if (column := self._column(node)) is not None:
            return self._null_column(column, wanted)
        if not self._is_truth(node):
            raise _no_counterpart(node)
        if wanted:
            return all_of([self.where(node, True, True), self.where(node, False, True)])
        return any_of([self.where(node, True), self.where(node, False)])

    def _null_column(self, column: str, wanted: bool) -> Condition:
        if column in self._absent:
            return EVERY_ROW if wanted else NO_ROW
        return Null(column=column, negated=not wanted)

    def _between(self, part: Node, lower: Node, upper: Node, value: bool, or_null: bool) -> Condition:
        """Two comparisons, for which DuckDB converts all three parts to one type."""
        ends = {"COMPARE_GREATERTHANOREQUALTO": (lower, upper), "COMPARE_LESSTHANOREQUALTO": (upper, lower)}
        return (all_of if value else any_of)(
            self.where(_of("COMPARISON", how, left=part, right=end), value, or_null)
            if self._is_constant(part) and self._is_constant(end)
            else self._comparison(how, part, end, value, or_null, beside=[other])
            for how, (end, other) in ends.items()
        )

    def _comparison(
        self, how: str, left: Node, right: Node, value: bool, or_null: bool, beside: Sequence[Node] = ()
    ) -> Condition:
        """One comparison; what is ``beside`` it counts for its type."""
        is_mirrored = self._is_constant(left)
        part, constant = (right, left) if is_mirrored else (left, right)
        if not self._is_constant(constant):
            raise UntranslatableError(
                f"{shown(left)} compared with {shown(right)} has no counterpart; engines compare one column with a"
                f" constant."
            )
        if how not in _COMPARISONS:  # IS [NOT] DISTINCT FROM is never null
            is_equal = (how == "COMPARE_NOT_DISTINCT_FROM") == value
            if self._constants.is_null(constant):
                return self._null(part, is_equal)
            return self._any_of(part, [constant], is_equal, or_null=not is_equal)
        plain = _MIRRORED[_COMPARISONS[how]] if is_mirrored else _COMPARISONS[how]
        if plain in ("=", "!="):
            return self._any_of(part, [constant], value == (plain == "="), or_null)
        column, by_day = self._compared_column(part)
        place = self._places(part, column, [constant, *beside], by_day)[0]
        if place is None:
            return EVERY_ROW if or_null else NO_ROW
        return self._compared(column, plain, place, value, or_null)

    def _any_of(
        self, part: Node, constants: Sequence[Node], value: bool, or_null: bool, *, are_list: bool = False
    ) -> Condition:
        """The rows in which ``part IN (constants)`` has a value: ``part = a OR part = b``, with null as in SQL."""
        if any(not self._is_constant(each) for each in constants):
            raise UntranslatableError(f"{shown(part)} compared with columns has no counterpart.")
        join, missing = any_of if value else all_of, EVERY_ROW if or_null else NO_ROW
        if self._is_truth(part):
            found = self._constants.values(constants)
            return join([missing if each is None else self.where(part, each == value, or_null) for each in found])
        column, by_day = self._compared_column(part)
        places = self._places(part, column, constants, by_day, are_list)
        return join(
            missing if place is None else self._compared(column, "=", place, value, or_null) for place in places
        )

    def _compared(self, column: str, how: Comparison, place: Place, value: bool, or_null: bool) -> Condition:
        return self._leaf(column, place.compared(column, how if value else _OPPOSITE[how]), or_null)

    def _leaf(self, column: str, found: Condition, or_null: bool) -> Condition:
        if column in self._absent:
            return EVERY_ROW if or_null else NO_ROW
        return any_of([found, Null(column=column)]) if or_null else found

    def _function(self, node: Node, value: bool, or_null: bool) -> Condition:
        name, arguments = name_of(node), [each["expression"] for each in node["arguments"]]
        first = arguments[0]
        if (
            name in _HOLD
            and first["class"] == "FUNCTION"
            and name_of(first) == "list_value"
            and self._is_constant(first)
        ):
            items = [each["expression"] for each in first["arguments"]]
            kept = [item for item in items if not self._constants.is_null(item)]
            if kept:
                return self._any_of(arguments[1], kept, value, or_null, are_list=True)
            found = NO_ROW if value else self._null(arguments[1], False)
            return any_of([found, self._null(arguments[1], True)]) if or_null else found
        column, further = self._column(first), arguments[1:]
        if column is not None and all(map(self._is_constant, further)):
            arrow = self._types[column]
            if is_text(arrow) and name in TEXT_TESTS:
                known = self._constants.values(further)
                if any(not isinstance(each, str) for each in known):  # null
                    return EVERY_ROW if or_null else NO_ROW
                return self._leaf(column, text_test(name, column, *known, value=value), or_null)
            if pa.types.is_list(arrow) and (name in _HOLD or name in ("list_has_any", "list_has_all")):
                return self._listing(name, column, further[0], value, or_null)
        if name == "is_within":
            return self._within(arguments, value, or_null)
        raise _no_counterpart(node)

    def _listing(self, name: str, column: str, argument: Node, value: bool, or_null: bool) -> Condition:
        values = self._constants.values([argument])[0]
        is_one = name in _HOLD
        if values is None:
            return EVERY_ROW if or_null else NO_ROW
        values = [values] if is_one else [each for each in values if each is not None]
        if not all(_may_be_item(self._types[column].value_type, each) for each in values):
            raise UntranslatableError(
                f"{name}({column}, {shown(argument)}) has no counterpart; items that are text, whole numbers or truth"
                f" values are compared with their like."
            )
        join = all_of if (name == "list_has_all") == value else any_of
        found = join(Listing(column=column, value=each, negated=not value) for each in values)
        if found in (EVERY_ROW, NO_ROW):  # the list of constants is empty
            found = Null(column=column, negated=True) if found == EVERY_ROW else NO_ROW
        return self._leaf(column, found, or_null)

    def _within(self, arguments: Sequence[Node], value: bool, or_null: bool) -> Condition:
        """As the macro `own_functions` defines it."""
        latitude, longitude, south, west, north, east = arguments
        least, most, beyond = (
            _of("COMPARISON", f"COMPARE_{how}", left=left, right=right)
            for left, how, right in (
                (longitude, "GREATERTHANOREQUALTO", west),
                (longitude, "LESSTHANOREQUALTO", east),
                (west, "GREATERTHAN", east),
            )
        )
        rows = _of("BETWEEN", "COMPARE_BETWEEN", input=latitude, lower=south, upper=north)
        columns = _of("BETWEEN", "COMPARE_BETWEEN", input=longitude, lower=west, upper=east)
        across = _joined("AND", beyond, _joined("OR", least, most))
        return self.where(_joined("AND", rows, _joined("OR", columns, across)), value, or_null)

    def _is_truth(self, node: Node) -> bool:
        """Whether a part is true, false or null, as far as that can be told from how it is written."""
        kind = node["class"]
        if kind == "FUNCTION":
            return FUNCTIONS[name_of(node)] == "truth"
        if kind == "CAST":
            return kind_of_cast(node) == "truth" and self._is_truth(node["child"])
        if kind == "OPERATOR":
            return node["type"] in _TESTS
        column = self._column(node)
        return kind in ("COMPARISON", "CONJUNCTION", "BETWEEN") or (
            column is not None and bool(pa.types.is_boolean(self._types[column]))
        )

    def _is_constant(self, node: Node) -> bool:
        """Whether a part names no column; ``current_date`` is parsed as one, too."""
        names = (part["column_names"][-1].casefold() for part in parts_of(node) if part["class"] == "COLUMN_REF")
        return all(name in NOW and name not in self._names for name in names)

    def _column(self, node: Node) -> str | None:
        """The column that a part is, casts to what it is already left out."""
        if node["class"] == "COLUMN_REF" and not self._is_constant(node):
            return self._names[node["column_names"][-1].casefold()]
        if node["class"] == "CAST" and (column := self._column(node["child"])) is not None:
            arrow, target = self._types[column], str(node["type_expr"].get("type_name", "")).upper()
            if is_text(arrow) and target in ("VARCHAR", "TEXT", "STRING"):
                return column
            is_fine = target.startswith("TIMESTAMP") and not target.endswith(("_S", "_NS", "_MS"))
            if is_fine and pa.types.is_timestamp(arrow) and arrow.unit != "ns":  # the same moments, as zones are UTC
                return column
        return None

    def _compared_column(self, node: Node) -> tuple[str, bool]:
        """The column that a part is, and whether only its day counts."""
        if (column := self._column(node)) is not None:
            return column, False
        if node["class"] == "CAST" and kind_of_cast(node) == "day":
            inner = self._column(node["child"])
            if inner is not None and kind_of_column(self._types[inner]) in ("time", "day"):
                return inner, True
        raise _no_counterpart(node)

    def _places(
        self, part: Node, column: str, constants: Sequence[Node], by_day: bool, are_list: bool = False
    ) -> list[Place | None]:
        """Where constants lie among the values of a column; None for null."""
        arrow = self._types[column]
        if not by_day and (plain := [literal(each, arrow) for each in constants]).count(None) == 0:
            return [place_of(arrow, value, type_name) for value, type_name in filter(None, plain)]
        found, type_name = self._constants.compared(part, constants, are_list=are_list)
        places = [None if each is None else place_of(arrow, each, type_name, by_day=by_day) for each in found]
        for constant, value, place in zip(constants, found, places, strict=True):
            if place is None and value is not None:
                types = f"{arrow} and {type_name}"
                raise UntranslatableError(
                    f"{column} compared with {shown(constant)} has no counterpart; their types are {types}."
                )
        return places


def _of(kind: str, name: str, **parts: Any) -> Node:
    return {"class": kind, "type": name, "alias": "", **parts}


def _joined(word: str, *parts: Node) -> Node:
    return _of("CONJUNCTION", f"CONJUNCTION_{word}", children=list(parts))


def _no_counterpart(node: Node) -> UntranslatableError:
    """For a part that is not a column or a constant."""
    name = name_of(node) if node["class"] == "FUNCTION" else ""
    if name in _ILIKE:
        return UntranslatableError("ILIKE has no counterpart, because engines count case; use LIKE.")
    what = f"{name}(...)" if FUNCTIONS.get(name) == "truth" else shown(node)
    return UntranslatableError(f"{what} has no counterpart; engines compare columns as they are stored.")


def _may_be_item(arrow: pa.DataType, value: Any) -> bool:
    if isinstance(value, bool):
        return bool(pa.types.is_boolean(arrow))
    return is_text(arrow) if isinstance(value, str) else isinstance(value, int) and bool(pa.types.is_integer(arrow))
