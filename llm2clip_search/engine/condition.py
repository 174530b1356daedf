"""Which SQL conditions a filter may be: parsed by DuckDB itself, and every node of its tree on an allow-list.

A condition comes from a stranger where an index is served. DuckDB's configuration keeps it from files and the network,
but not from asking for work without end, as ``length(repeat('x', 2000000000)) > 0`` does. So it must be short, and only
column references, constants, comparisons, logic, BETWEEN, IN, LIKE, IS NULL, casts, arithmetic and functions whose cost
is that of reading their arguments pass.
"""

import json
from collections.abc import Iterator
from typing import Any

from llm2clip_search.errors import QueryError

MAX_BYTES = 4096
"""Length of a condition in UTF-8: bounds the size of constants, the number of terms and the depth of the tree."""

_LIKE = {"~~", "!~~", "~~*", "!~~*", "~~~", "like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape"}
_ARITHMETIC = {"+", "-", "*", "/", "//", "%", "**", "^"}
_TEXT = "lower upper length strlen trim ltrim rtrim starts_with ends_with prefix suffix contains instr"
_PATTERNS = "substring substr left right regexp_matches regexp_full_match"
_NUMBERS = "abs round floor ceil ceiling trunc sign sqrt pow power exp ln log10 least greatest isnan isfinite"
_ANGLES = "sin cos tan asin acos atan atan2 radians degrees pi"
_LISTS = "ifnull nullif len list_value list_contains list_has array_contains list_has_any list_has_all"
_TIMES = "now today get_current_timestamp current_date get_current_date date_part date_trunc date_diff make_date epoch"
_PARTS = "year quarter month week day hour minute second dayofweek isodow dayofyear"
_INTERVALS = "to_years to_months to_weeks to_days to_hours to_minutes to_seconds"
FUNCTIONS = frozenset(
    (_LIKE | _ARITHMETIC).union(
        *(names.split() for names in (_TEXT, _PATTERNS, _NUMBERS, _ANGLES, _LISTS, _TIMES, _PARTS, _INTERVALS))
    )
)
"""Functions that a condition may use; operators and LIKE are functions to DuckDB too."""
_CLASSES = frozenset({"COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR", "FUNCTION", "CAST"})
_OPERATORS = frozenset(
    {
        *("OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "OPERATOR_NULLIF"),
        *("COMPARE_IN", "COMPARE_NOT_IN"),
    }
)
_TYPES = frozenset(
    {
        *("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "VARCHAR"),
        *("DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ", "TIMESTAMP_S", "TIMESTAMP_NS"),
        *("INT", "TEXT", "STRING", "REAL", "NUMERIC", "INTERVAL", "INT4", "INT8", "BOOL"),
    }
)


def check_condition(connection: Any, where: str) -> frozenset[str]:
    """Refuse a condition that is not one, or that could do more than compare columns.

    Args:
        connection: any DuckDB connection; nothing of the condition is run.

    Returns:
        The columns that it names, as it spells them.

    Raises:
        QueryError: an empty or too long condition, SQL that is not one condition, or a part of it that is not
            allowed, which is named.
    """
    if not where.strip():
        raise QueryError("The condition is empty.", hint='Give --where a condition such as "width > 1000".')
    if (size := len(where.encode("utf-8", "surrogatepass"))) > MAX_BYTES:
        raise QueryError(f"The condition is {size:,} bytes long, but at most {MAX_BYTES:,} are allowed.")
    parsed = _parse(connection, where)
    if parsed.get("error"):
        raise QueryError(f"{where!r} is not a valid condition: {_first_line(parsed.get('error_message', ''))}.")
    statements, [template] = parsed["statements"], _parse(connection, "true")["statements"]
    if len(statements) != 1 or _around(statements[0]) != _around(template):
        raise QueryError("A filter is one condition; several, or further clauses and statements, are not allowed.")
    nodes = list(_expressions(statements[0]["node"]["where_clause"]))
    for node in nodes:
        _check(node)
    return frozenset(node["column_names"][-1] for node in nodes if node["class"] == "COLUMN_REF")


def _parse(connection: Any, where: str) -> dict[str, Any]:
    # The line break ends a comment, so that nothing in the condition can swallow the parenthesis.
    sql = f"SELECT id FROM images WHERE (\n{where}\n)"
    try:
        [text] = connection.execute("SELECT json_serialize_sql(?::VARCHAR, skip_null := true)", [sql]).fetchone()
        parsed: dict[str, Any] = json.loads(text)
    except RecursionError as error:
        raise QueryError("The condition is nested too deeply.") from error
    return parsed


def _around(statement: dict[str, Any]) -> Any:
    """A statement without its condition, and without positions in its text."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if not k.startswith("query_location") and k != "where_clause"}
        return [bare(each) for each in value] if isinstance(value, list) else value

    return bare(statement)


def _expressions(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node of an expression; a loop, because a deep tree would exhaust Python's stack."""
    pending = [tree]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "class" in value:
                yield value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _check(node: dict[str, Any]) -> None:
    kind = node["class"]
    if kind == "FUNCTION":
        name = ".".join(node["qualified_name"]["path"]).lower()
        if name not in FUNCTIONS:
            raise QueryError(f"A filter cannot use the function {name}.")
        if node.get("distinct") or node.get("filter") or node.get("order_bys", {}).get("orders"):
            raise QueryError(f"A filter cannot use the function {name} as an aggregate.")
    elif kind == "OPERATOR":
        if node["type"] not in _OPERATORS:
            raise QueryError(f"A filter cannot use {_plain(node['type'])}.")
    elif kind == "TYPE":
        if (name := str(node.get("type_name", "")).upper()) not in _TYPES:
            raise QueryError(f"A filter cannot cast to {name or 'this type'}.")
    elif kind not in _CLASSES:
        raise QueryError(f"A filter cannot contain a {_plain(kind)}: it compares columns with constants.")


def _plain(name: str) -> str:
    return name.removeprefix("OPERATOR_").replace("_", " ").lower()


def _first_line(message: str) -> str:
    return message.partition("\n")[0].rstrip(".")
