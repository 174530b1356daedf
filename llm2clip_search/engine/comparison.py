"""What a condition means where SQL would mislead: comparisons of dates, numbers and text with each other.

DuckDB's parsed tree is read once from its leaves up, and where a value does not stand for itself the tree is changed:

- A date in quotes is a period: ``taken = '2026-11'`` is true for the whole month, ``<=`` and BETWEEN reach to its end.
- A day such as ``current_date`` is a whole day in ``=``, ``<=`` and BETWEEN.
- A date or a number is text to LIKE and other functions on text; a quoted number is a number.
- A format has Pillow's name: ``jpg`` is JPEG.

What cannot be meant, such as ``taken > 2026``, raises a `QueryError` that says how to write it. Otherwise DuckDB would
answer some of these with no row, or with all.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import islice

from llm2clip_search.engine.kinds import (
    NOW,
    PHRASES,
    TEXT_ARGUMENTS,
    Kind,
    Node,
    Typed,
    kind_of_cast,
    kind_of_constant,
    kind_of_result,
    name_of,
    parts_of,
    shown,
)
from llm2clip_search.engine.periods import period_of, sql_timestamp
from llm2clip_search.errors import QueryError

MAX_REPEATED = 32
"""Nodes of a part that is compared more than once."""

_MIRRORED = {
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
}
_DISTINCT = {"COMPARE_NOT_DISTINCT_FROM": "=", "COMPARE_DISTINCT_FROM": "!="}
_HOLD = frozenset({"contains", "list_contains", "list_has", "array_contains"})
_DATES = ("time", "day")
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE | re.ASCII)
_EXAMPLES = {"size": "size > 10000000, in bytes", "latitude": "latitude > 48.1", "longitude": "longitude > -0.5"}
_FORMATS = {"JPG": "JPEG", "TIF": "TIFF", "HEIC": "HEIF", "JP2": "JPEG2000"}
"""Suffixes that people write for formats of another name."""


def understood(condition: Node, kinds: Mapping[str, Kind]) -> Node:
    """The condition with every comparison as a person means it.

    Args:
        condition: a tree whose nodes are all allowed; it is not modified.
        kinds: of the columns, by name in lower case.

    Raises:
        QueryError: a comparison without a sensible meaning; the message says how to write it.
    """
    return _truth(_Reader(kinds).read(condition))


class _Reader:
    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds

    def read(self, node: Node) -> Typed:
        """A node with everything below it understood, and its kind."""
        kind = node["class"]
        if kind in ("COLUMN_REF", "CONSTANT"):
            named = kind == "COLUMN_REF"
            return Typed(node, self._kind_of_name(node["column_names"]) if named else kind_of_constant(node))
        if kind == "CAST":
            return Typed(node | {"child": self.read(node["child"]).node}, kind_of_cast(node))
        if kind == "COMPARISON":
            return Typed(_compared(node, self.read(node["left"]), self.read(node["right"])), "truth")
        if kind == "BETWEEN":
            return Typed(_between(node, *(self.read(node[part]) for part in ("input", "lower", "upper"))), "truth")
        if kind == "CONJUNCTION":
            return Typed(node | {"children": [_truth(self.read(child)) for child in node["children"]]}, "truth")
        return self._function(node) if kind == "FUNCTION" else self._operator(node)

    def _kind_of_name(self, names: Sequence[str]) -> Kind:
        name = names[-1].casefold()
        if name in self._kinds or name not in NOW:
            return self._kinds.get(name, "unknown")
        return "day" if name == "current_date" else "time"

    def _operator(self, node: Node) -> Typed:
        children = [self.read(child) for child in node.get("children", ())]
        if node["type"] == "OPERATOR_NOT":
            return Typed(node | {"children": [_truth(child) for child in children]}, "truth")
        new = node | {"children": [child.node for child in children]}
        if node["type"] in ("COMPARE_IN", "COMPARE_NOT_IN"):
            met = _any_of(children[0], children[1:])
            if met is not None and node["type"] == "COMPARE_NOT_IN":
                met = {"class": "OPERATOR", "type": "OPERATOR_NOT", "alias": "", "children": [met]}
            return Typed(met or new, "truth")
        if node["type"] in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            return Typed(new, "truth")
        return Typed(new, kind_of_result("ifnull", children))

    def _function(self, node: Node) -> Typed:
        name, arguments = name_of(node), [self.read(each["expression"]) for each in node["arguments"]]
        if name in ("+", "-"):
            _check_sum(name, arguments)
        if name in _HOLD and len(arguments) == 2 and _is_list(arguments[0].node):  # format IN ['JPEG', 'PNG']
            items = [self.read(each["expression"]) for each in arguments[0].node["arguments"]]
            if (met := _any_of(arguments[1], items)) is not None:
                return Typed(met, "truth")
        searched = arguments[0].kind if arguments else "unknown"
        for place, argument in enumerate(arguments[: TEXT_ARGUMENTS.get(name, 0)]):
            if argument.kind in (*_DATES, "number") and searched != "unknown":  # which may be a list
                arguments[place] = Typed(_cast(argument.node, "VARCHAR"), "text")
        written = [each | {"expression": new.node} for each, new in zip(node["arguments"], arguments, strict=True)]
        return Typed(node | {"arguments": written}, kind_of_result(name, arguments))


def _is_list(node: Node) -> bool:
    return node["class"] == "FUNCTION" and name_of(node) == "list_value"


def _truth(part: Typed) -> Node:
    """A part that has to be true or false, unlike ``'JPEG'`` in ``format = 'PNG' OR 'JPEG'``."""
    if part.kind not in ("truth", "null", "unknown"):
        name = shown(part.node)
        raise QueryError(
            f"{name} alone is not a valid condition, because it is {PHRASES[part.kind]}; compare it with something, as"
            f" in width > 1000, and write several values as in format IN ('JPEG', 'PNG')."
        )
    return part.node


def _check_sum(name: str, arguments: Sequence[Typed]) -> None:
    kinds = [argument.kind for argument in arguments]
    wrong = {"number", "string"} if "time" in kinds else {"string"} if "day" in kinds else set()
    if wrong & set(kinds):
        date = next(shown(each.node) for each in arguments if each.kind in _DATES)
        raise QueryError(
            f"{f' {name} '.join(shown(each.node) for each in arguments)} does not say what is counted; write a span of"
            f" time as in {date} {name} INTERVAL 7 DAY."
        )


def _compared(node: Node, left: Typed, right: Typed) -> Node:
    """A comparison; the constant may be on either side."""
    how = node["type"]
    if left.kind == "string" or (left.kind == "day" and right.kind == "time"):
        left, right, how = right, left, _MIRRORED.get(how, how)
    if how in _DISTINCT:
        if left.kind in _DATES and right.kind in ("string", "day"):
            raise QueryError(
                f"{shown(left.node)} is compared with a date; write {shown(left.node)} {_DISTINCT[how]}"
                f" {shown(right.node)} instead of IS [NOT] DISTINCT FROM."
            )
        if "null" not in (left.kind, right.kind):
            if left.kind == "number" and right.kind == "string":
                right = Typed(_number(left, right.node), "number")
            _check_same(left, right)
        return _comparison(how, left.node, right.node)
    if "null" in (left.kind, right.kind):
        other = left if right.kind == "null" else right
        raise QueryError(
            f"A comparison with NULL is never true; write {shown(other.node)} IS NULL or"
            f" {shown(other.node)} IS NOT NULL."
        )
    if right.kind == "string" and left.kind in _DATES:
        return _in_period(how, left, right.node)
    if right.kind == "string" and left.kind == "number":
        return _comparison(how, left.node, _number(left, right.node))
    if left.kind == "time" and right.kind == "day" and how in _WHOLE_DAY:
        return _comparison(how, _cast(left.node, "DATE"), right.node)
    _check_same(left, right)
    return _comparison(how, left.node, _format(left.node, right))


_WHOLE_DAY = ("COMPARE_EQUAL", "COMPARE_NOTEQUAL", "COMPARE_LESSTHANOREQUALTO")
"""Comparisons in which a time is compared with a day by its own day, because SQL would take the day's midnight."""


def _in_period(how: str, left: Typed, constant: Node) -> Node:
    name, text = shown(left.node), constant["literal"]["text"]
    if (period := period_of(text)) is None:
        raise QueryError(
            f"{shown(constant)} is not a date; write year, month and day in this order, as in {name} >= '2026-11-25',"
            f" or count from now, as in {name} > now() - INTERVAL 7 DAY."
        )
    if period.has_zone and left.node.get("column_names", [""])[-1].casefold() == "taken":
        raise QueryError(
            f"{name} is the camera's local time, which has no time zone; leave it out of {shown(constant)}."
        )
    start, end = (_cast(_string(sql_timestamp(moment)), "TIMESTAMP") for moment in (period.start, period.end))
    from_start = _comparison("COMPARE_GREATERTHANOREQUALTO", left.node, start)
    before_start = _comparison("COMPARE_LESSTHAN", left.node, start)
    before_end = _comparison("COMPARE_LESSTHAN", left.node, end)
    if how == "COMPARE_EQUAL":
        return _conjunction("AND", [from_start, before_end], left.node)
    if how == "COMPARE_NOTEQUAL":
        from_end = _comparison("COMPARE_GREATERTHANOREQUALTO", left.node, end)
        return _conjunction("OR", [before_start, from_end], left.node)
    if how == "COMPARE_GREATERTHAN":
        if period.is_long:
            raise QueryError(
                f"{name} > '{text}' does not say whether {text} itself is meant; write {name} >= '{text}' to include"
                f" it, or {name} >= '{period.end}' for what comes after it."
            )
        return _comparison(how, left.node, start)
    return {
        "COMPARE_LESSTHAN": before_start,
        "COMPARE_LESSTHANOREQUALTO": before_end,
        "COMPARE_GREATERTHANOREQUALTO": from_start,
    }[how]


def _number(left: Typed, constant: Node) -> Node:
    """A number in quotes; DuckDB would round it to a whole one for a column of such."""
    text = constant["literal"]["text"]
    if not _NUMBER.fullmatch(text):
        name = shown(left.node)
        example = _EXAMPLES.get(name, f"{name} > 1000")
        raise QueryError(
            f"{name} is a number, but {shown(constant)} is text; write a plain number without quotes and units, as in"
            f" {example}."
        )
    return constant if text.strip().lstrip("+-").isdecimal() else _cast(constant, "DOUBLE")


def _check_same(left: Typed, right: Typed) -> None:
    """Refuse two kinds that nobody would compare."""
    phrases = [PHRASES[each.kind] for each in (left, right)]
    if phrases[0] == phrases[1] or "unknown" in (left.kind, right.kind):
        return
    message = f"{shown(left.node)} is {phrases[0]}, but {shown(right.node)} is {phrases[1]}"
    kinds, columns = {left.kind, right.kind}, [each for each in (left, right) if each.node["class"] == "COLUMN_REF"]
    name = shown(columns[0].node) if columns else "taken"
    if "span" in kinds:
        message += (
            "; write a span of time as INTERVAL 7 DAY, and count it from now, as in mtime > now() - INTERVAL 7 DAY"
        )
    elif kinds & set(_DATES) and not [each for each in columns if each.kind not in _DATES]:
        message += f"; write dates in single quotes, as in {name} >= '2026-11-25'"
    elif kinds == {"text", "number"} and columns and columns[0].kind == "text":
        value = right if columns[0] is left else left
        message += f"; write text in single quotes, as in {name} = '{shown(value.node)}'"
    raise QueryError(f"{message}.")


def _format(left: Node, right: Typed) -> Node:
    if right.kind != "string" or left.get("column_names", [""])[-1].casefold() != "format":
        return right.node
    name = str(right.node["literal"]["text"]).upper()
    return _string(_FORMATS.get(name, name))


def _between(node: Node, value: Typed, lower: Typed, upper: Typed) -> Node:
    ends = {"COMPARE_GREATERTHANOREQUALTO": lower, "COMPARE_LESSTHANOREQUALTO": upper}
    each = [_compared({"type": how}, value, end) for how, end in ends.items()]
    if each == [_comparison(how, value.node, end.node) for how, end in ends.items()]:
        return node | {"input": value.node, "lower": lower.node, "upper": upper.node}
    return _conjunction("AND", each, value.node)


def _any_of(value: Typed, items: Sequence[Typed]) -> Node | None:
    """True if a value equals one of some; None if each is compared as it stands."""
    each = [_compared({"type": "COMPARE_EQUAL"}, value, item) for item in items]
    if each == [_comparison("COMPARE_EQUAL", value.node, item.node) for item in items]:
        return None
    return _conjunction("OR", each, value.node)


def _comparison(how: str, left: Node, right: Node) -> Node:
    return {"class": "COMPARISON", "type": how, "alias": "", "left": left, "right": right}


def _conjunction(word: str, children: Sequence[Node], repeated: Node) -> Node:
    """Several comparisons of one part, which is bounded in size: parts within each other would double at each level."""
    if len(children) == 1:
        return children[0]
    if len(list(islice(parts_of(repeated), MAX_REPEATED + 1))) > MAX_REPEATED:
        raise QueryError(f"{shown(repeated)} is too long to be compared with a date or several values.")
    return {"class": "CONJUNCTION", "type": f"CONJUNCTION_{word}", "alias": "", "children": list(children)}


def _string(text: str) -> Node:
    literal = {"kind": "STRING", "text": text}
    return {"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "literal": literal}


def _cast(child: Node, name: str) -> Node:
    target: Node = {"class": "TYPE", "type": "TYPE", "alias": "", "type_name": name}
    target |= {"children": [], "catalog": "", "schema": "", "qualified_name": {"path": [name]}}
    return {
        "class": "CAST",
        "type": "OPERATOR_CAST",
        "alias": "",
        "child": child,
        "try_cast": False,
        "type_expr": target,
    }
