"""From SQL to the form that says the same, for all that a form can say; see `form`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from llm2clip_search.engine.columns import Column
from llm2clip_search.engine.form import NEAR, PLACE, WITHIN, Condition, Operation, Scalar, sql_of
from llm2clip_search.engine.kinds import Node, name_of
from llm2clip_search.errors import QueryError
from llm2clip_search.store.names import decode, is_unicode

_COMPARISONS: Mapping[str, Operation] = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "!=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_MIRRORED: Mapping[Operation, Operation] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NEGATED: Mapping[Operation, Operation] = {
    "in": "not_in",
    "contains": "not_contains",
    "is_null": "is_not_null",
    "is_not_null": "is_null",
}


class _NotAFormError(Exception):
    """A part of a condition that no form can show."""


def conditions_in(tree: Node, columns: Mapping[str, Column]) -> list[Condition] | None:
    """The conditions that a parsed one consists of; None if a form cannot show it.

    Args:
        tree: of a condition that may be run, as it was typed.
        columns: by name.
    """
    parts = tree["children"] if tree["type"] == "CONJUNCTION_AND" else [tree]
    try:
        found = [_Reader(columns).condition(part) for part in parts]
        for each in found:
            sql_of(each, columns)  # text for a number, for example, has a meaning in SQL but not in a form
    except (_NotAFormError, QueryError, RecursionError):
        return None
    return found


class _Reader:
    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = {name.casefold(): column for name, column in columns.items()}

    def condition(self, node: Node) -> Condition:
        if node["class"] == "COMPARISON":
            return self._compared(node)
        if node["class"] == "BETWEEN":
            return self._of(node["input"], "between", [_value(node["lower"]), _value(node["upper"])])
        if node["class"] == "COLUMN_REF":
            return self._of(node, "=", True)
        if node["class"] == "FUNCTION":
            return self._called(name_of(node), [each["expression"] for each in node["arguments"]])
        return self._operator(node["type"], node.get("children", []))

    def _operator(self, name: str, children: Sequence[Node]) -> Condition:
        if name == "COMPARE_IN":
            return self._of(children[0], "in", [_value(child) for child in children[1:]])
        if name in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            return self._of(children[0], name.removeprefix("OPERATOR_").lower())
        if name == "OPERATOR_NOT" and children[0]["class"] == "COLUMN_REF":
            return self._of(children[0], "=", False)
        if name == "OPERATOR_NOT":
            return _negated(self.condition(children[0]))
        if name == "CONJUNCTION_OR":
            return _any_of([self.condition(child) for child in children])
        raise _NotAFormError

    def _of(self, named: Node, op: str, value: Any = None) -> Condition:
        if (
            named["class"] != "COLUMN_REF"
            or (column := self._columns.get(named["column_names"][-1].casefold())) is None
        ):
            raise _NotAFormError
        return Condition(column=column.name, op=op, value=value)  # type: ignore[arg-type]

    def _compared(self, node: Node) -> Condition:
        left, right = node["left"], node["right"]
        if (op := _COMPARISONS.get(node["type"])) is None:
            raise _NotAFormError
        if left["class"] == "FUNCTION" and name_of(left) == "km_between" and op == "<=":
            numbers = self._numbers_of_place([each["expression"] for each in left["arguments"]])
            return Condition(column=PLACE, op="near", value=dict(zip(NEAR, [*numbers, _value(right)], strict=True)))
        if left["class"] == "CONSTANT":
            left, right, op = right, left, _MIRRORED.get(op, op)
        return self._of(left, op, _value(right))

    def _called(self, name: str, arguments: Sequence[Node]) -> Condition:
        if name in ("list_contains", "list_has", "array_contains") and len(arguments) == 2:
            return self._of(arguments[0], "has", _value(arguments[1]))
        if name == "is_under" and len(arguments) == 2:
            return self._of(arguments[0], "under", _value(arguments[1]))
        if name == "is_within":
            numbers = self._numbers_of_place(arguments)
            return Condition(column=PLACE, op="within", value=dict(zip(WITHIN, numbers, strict=True)))
        if name == "!~~*":
            return _negated(self._called("~~*", arguments))
        if name in ("~~*", "ilike_escape"):
            op, text = _searched(*(_text(each) for each in arguments[1:]))
            return self._of(arguments[0], op, text)
        raise _NotAFormError

    def _numbers_of_place(self, arguments: Sequence[Node]) -> list[Any]:
        named = [self._of(each, "is_null").column for each in arguments[:2]]
        if named != ["latitude", "longitude"] or len(arguments) not in (4, 6):
            raise _NotAFormError
        return [_value(each) for each in arguments[2:]]


def _negated(condition: Condition) -> Condition:
    if condition.op not in _NEGATED:
        raise _NotAFormError
    return replace(condition, op=_NEGATED[condition.op])


def _any_of(each: Sequence[Condition]) -> Condition:
    """``format = 'PNG' OR format = 'JPEG'``."""
    if {(part.op, part.column) for part in each} != {("=", each[0].column)}:
        raise _NotAFormError
    values = [part.value for part in each if isinstance(part.value, str | int | float)]
    return replace(each[0], op="in", value=values)


def _value(node: Node) -> Scalar:
    """The value of a constant."""
    if node["class"] != "CONSTANT":
        raise _NotAFormError
    kind, text = node["literal"]["kind"], str(node["literal"].get("text", ""))
    if kind == "STRING":
        if not is_unicode(name := decode(text)):  # bytes of a file's name, which JSON cannot hold
            raise _NotAFormError
        return name
    if kind == "BOOLEAN":
        return text == "true"
    try:
        if kind == "INTEGER":
            return int(text)
        if kind == "NUMERIC" and math.isfinite(number := float(text)) and Decimal(text) == Decimal(repr(number)):
            return number
    except (ValueError, ArithmeticError):
        pass
    raise _NotAFormError


def _text(node: Node) -> str:
    if not isinstance(value := _value(node), str):
        raise _NotAFormError
    return value


def _searched(pattern: str, escape: str = "") -> tuple[str, str]:
    """The operation and the text of a pattern of ILIKE whose only wildcards are at its ends."""
    characters: list[tuple[str, bool]] = []
    pending = iter(pattern)
    for character in pending:
        if escape and character == escape:
            characters.append((next(pending, ""), False))
        else:
            characters.append((character, character in ("%", "_")))
    is_open = [("%", True) in characters[end] for end in (slice(0, 1), slice(max(1, len(characters) - 1), None))]
    inner = characters[is_open[0] : len(characters) - is_open[1]]
    if not any(is_open) or any(is_wild for _, is_wild in inner):
        raise _NotAFormError
    op = "contains" if all(is_open) else "ends_with" if is_open[0] else "starts_with"
    return op, "".join(character for character, _ in inner)
