"""What kind of value each part of a condition has, so far as that decides how it may be compared."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa

Kind = Literal["time", "day", "span", "number", "text", "string", "truth", "null", "unknown"]
"""``string`` is a constant in quotes, which can stand for a number or a date; ``text`` is any other text."""
Node = dict[str, Any]
"""A part of a condition, as DuckDB's ``json_serialize_sql`` writes it."""

PHRASES: Mapping[Kind, str] = {
    "time": "a date",
    "day": "a date",
    "span": "a span of time",
    "number": "a number",
    "text": "text",
    "string": "text",
    "truth": "true or false",
    "null": "NULL",
    "unknown": "a value",
}
NOW = frozenset({"current_timestamp", "localtimestamp", "current_date"})
"""Names without parentheses that DuckDB reads as functions, although it parses them as columns."""

_LIKE = "~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape not_ilike_escape"
_SEARCHED = "starts_with ends_with prefix suffix contains regexp_matches regexp_full_match"
_CUT = "lower upper trim ltrim rtrim substring substr left right"
_LISTS = "list_contains list_has array_contains list_has_any list_has_all"
_MEASURED = "length strlen instr"
_ARITHMETIC = "abs round floor ceil ceiling trunc sign sqrt pow power exp ln log10 pi / // % ** ^"
_ANGLES = "sin cos tan asin acos atan atan2 radians degrees"
_PARTS = "date_part date_diff epoch year quarter month week day hour minute second dayofweek isodow dayofyear"
_NAMES: Mapping[Kind, str] = {
    "number": f"{_MEASURED} {_ARITHMETIC} {_ANGLES} {_PARTS} len km_between",
    "text": f"{_CUT} dayname monthname strftime",
    "truth": f"{_LIKE} {_SEARCHED} {_LISTS} isnan isfinite is_under is_within",
    "time": "now get_current_timestamp date_trunc timezone",
    "day": "today get_current_date make_date last_day",
    "span": "to_years to_months to_weeks to_days to_hours to_minutes to_seconds",
    "unknown": "+ - * ifnull nullif least greatest list_value",
}
TEXT_ARGUMENTS: Mapping[str, int] = {
    **dict.fromkeys(f"{_LIKE} {_SEARCHED} is_under".split(), 2),
    **dict.fromkeys(f"{_CUT} {_MEASURED}".split(), 1),
}
"""How many arguments of a function, from the first on, are text."""
FUNCTIONS: Mapping[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}
"""Functions that a condition may use, and the kind of their results, ``unknown`` where it follows from the arguments;
operators and LIKE are functions to DuckDB too. The cost of each is that of reading its arguments."""
TYPES: Mapping[str, Kind] = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "INT", "INT4", "BIGINT", "INT8", "HUGEINT"), "number"),
    **dict.fromkeys(("FLOAT", "REAL", "DOUBLE", "DECIMAL", "NUMERIC"), "number"),
    **dict.fromkeys(("VARCHAR", "TEXT", "STRING"), "text"),
    **dict.fromkeys(("BOOLEAN", "BOOL"), "truth"),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ", "TIMESTAMP_S", "TIMESTAMP_NS"), "time"),
    "DATE": "day",
    "TIME": "unknown",
    "INTERVAL": "span",
}
"""Types that a condition may cast to, and their kinds."""


class Typed(NamedTuple):
    """A part of a condition and its kind."""

    node: Node
    kind: Kind


def kind_of_column(arrow: pa.DataType) -> Kind:
    """The kind of a column's values."""
    tests: Mapping[Kind, Any] = {
        "time": pa.types.is_timestamp,
        "day": pa.types.is_date,
        "span": pa.types.is_duration,
        "text": lambda each: pa.types.is_string(each) or pa.types.is_large_string(each),
        "truth": pa.types.is_boolean,
    }
    if pa.types.is_integer(arrow) or pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
        return "number"
    return next((kind for kind, test in tests.items() if test(arrow)), "unknown")


def kind_of_constant(node: Node) -> Kind:
    """The kind of a constant as it is written."""
    literal = node["literal"]["kind"]
    if literal in ("STRING", "NULL_LITERAL"):
        return "string" if literal == "STRING" else "null"
    return "truth" if literal == "BOOLEAN" else "number" if literal in ("INTEGER", "NUMERIC") else "unknown"


def kind_of_cast(node: Node) -> Kind:
    """The kind that a cast gives."""
    return TYPES.get(str(node["type_expr"].get("type_name", "")).upper(), "unknown")


def kind_of_result(name: str, arguments: Sequence[Typed]) -> Kind:
    """The kind of a function's result; operators such as ``+`` are functions too."""
    kinds = [argument.kind for argument in arguments]
    if name in ("+", "-"):
        return _kind_of_sum(kinds)
    if name == "*":
        return "span" if "span" in kinds else "number"
    if FUNCTIONS[name] == "unknown" and name != "list_value":  # the result is one of the arguments
        return next((kind for kind in kinds if kind not in ("null", "string")), "unknown")
    return FUNCTIONS[name]


def _kind_of_sum(kinds: Sequence[Kind]) -> Kind:
    dates = [kind for kind in kinds if kind in ("time", "day")]
    if len(dates) == 2:
        return "number" if dates == ["day", "day"] else "span"
    if dates:
        return "day" if "number" in kinds and dates == ["day"] else "time"
    return "span" if "span" in kinds else "number"


def parts_of(tree: Any) -> Iterator[Node]:
    """Every node of a tree; a loop, because a deep tree would exhaust Python's stack."""
    pending = [tree]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "class" in value:
                yield value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def shown(node: Node) -> str:
    """A part of a condition as a message names it, shortened."""
    text = _text(node)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(node: Node) -> str:
    if node["class"] == "COLUMN_REF":
        return ".".join(node["column_names"])
    if node["class"] == "CONSTANT":
        literal = node["literal"]
        return "NULL" if literal["kind"] == "NULL_LITERAL" else sql_string(node) or str(literal["text"])
    if node["class"] == "CAST":
        return _text(node["child"])
    if node["class"] == "FUNCTION":
        name, arguments = name_of(node), [_text(each["expression"]) for each in node["arguments"]]
        if FUNCTIONS.get(name) == "span":
            return "the INTERVAL"
        return f" {name} ".join(arguments) if node.get("is_operator") else f"{name}({', '.join(arguments)})"
    return "the expression"


def sql_string(node: Node) -> str:
    """A constant in quotes as SQL writes it; empty for any other."""
    literal = node["literal"]
    return "'" + str(literal["text"]).replace("'", "''") + "'" if literal["kind"] == "STRING" else ""


def name_of(node: Node) -> str:
    """A function's name, in lower case."""
    return ".".join(node["qualified_name"]["path"]).lower()
