"""Which SQL conditions a filter may be: parsed by DuckDB itself, and every node of its tree on an allow-list.

A condition comes from a stranger where an index is served. DuckDB's configuration keeps it from files and the network,
but not from asking for work without end, as ``length(repeat('x', 2000000000)) > 0`` does. So it must be short, and only
column references, constants, comparisons, logic, BETWEEN, IN, LIKE, IS NULL, casts, arithmetic and functions whose cost
is that of reading their arguments pass.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm2clip_search.engine.comparison import understood
from llm2clip_search.engine.kinds import FUNCTIONS, NOW, TYPES, Kind, Node, parts_of
from llm2clip_search.engine.own_functions import EXAMPLES
from llm2clip_search.errors import QueryError

MAX_BYTES = 4096
"""Length of a condition in UTF-8: bounds the size of constants, the number of terms and the depth of the tree."""

_CLASSES = frozenset({"COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR", "FUNCTION", "CAST"})
_OPERATORS = frozenset(
    {
        *("OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "OPERATOR_NULLIF"),
        *("COMPARE_IN", "COMPARE_NOT_IN"),
    }
)
_INSTEAD = {
    **dict.fromkeys(("&&", "&"), "write AND between conditions"),
    **dict.fromkeys(("||", "|"), "write OR between conditions"),
    "!": "write NOT",
    "=>": "write >=",
    "row": "write numbers without commas between their digits, and text in single quotes",
}
"""What to write instead of operators of other languages, which DuckDB parses as functions."""
_OF_DATABASE = frozenset(
    {"current_user", "current_role", "session_user", "user", "current_catalog", "current_schema"}
    | {"current_time", "localtime"}
)
"""Names without parentheses that DuckDB reads as functions, where no column has them. See `kinds.NOW` for others."""
_BEFORE = "SELECT id FROM images WHERE "


class Checked(NamedTuple):
    """A condition that is safe to run."""

    sql: str
    columns: frozenset[str]
    """Those that it names, as it spells them."""
    typed: Node
    """What was typed, as a tree."""
    meant: Node
    """What `sql` says, as a tree: what was typed, with every comparison as a person means it."""


def read_condition(connection: Any, where: str, kinds: Mapping[str, Kind]) -> Checked:
    """Refuse a condition that is not one, or that could do more than compare columns; and understand its comparisons.

    Args:
        connection: any DuckDB connection; nothing of the condition is run.
        kinds: of the columns, by name in lower case.

    Raises:
        QueryError: an empty or too long condition, SQL that is not one condition, or a part of it that is not
            allowed, which is named; or as `understood`.
    """
    if not where.strip():
        raise QueryError("The condition is empty.", hint='Give --where a condition such as "width > 1000".')
    if (size := len(where.encode("utf-8", "surrogatepass"))) > MAX_BYTES:
        raise QueryError(f"The condition is {size:,} bytes long, but at most {MAX_BYTES:,} are allowed.")
    try:
        parsed = _checked(connection, where)
        statement = parsed["statements"][0]["node"]
        meant = understood(statement["where_clause"], kinds)
        names = {part["column_names"][-1] for part in parts_of(meant) if part["class"] == "COLUMN_REF"}
        if own := sorted(name for name in names if name.casefold() in _OF_DATABASE - kinds.keys()):
            raise QueryError(f"A filter cannot use {own[0]}, which is not a column.")
        columns = {name for name in names if name.casefold() in kinds or name.casefold() not in NOW}
        if _bare(meant) == _bare(statement["where_clause"]):
            return Checked(where, frozenset(columns), meant, meant)
        return Checked(sql_of(connection, meant), frozenset(columns), statement["where_clause"], meant)
    except RecursionError as error:
        raise QueryError("The condition is nested too deeply.") from error


def sql_of(connection: Any, part: Node) -> str:
    """A part of a condition as SQL, which is checked again: what DuckDB writes is not trusted more than what was typed.

    Raises:
        QueryError: as `read_condition`.
        RecursionError: it is nested too deeply.
    """
    parsed = _parse(connection, "true")
    parsed["statements"][0]["node"]["where_clause"] = part
    [[text]] = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(parsed)]).fetchall()
    sql = str(text).removeprefix(_BEFORE)
    _checked(connection, sql)
    return sql


def _checked(connection: Any, where: str) -> dict[str, Any]:
    """The parsed statement around a condition whose every node is allowed."""
    # The line break ends a comment, so that nothing in the condition can swallow the parenthesis.
    parsed, [plain] = _parse(connection, f"(\n{where}\n)"), _parse(connection, "(true)")["statements"]
    _check_parsed(where, parsed)
    statements = parsed["statements"]
    if len(statements) != 1 or _bare(statements[0]) != _bare(plain):
        raise QueryError("A filter is one condition; several, or further clauses and statements, are not allowed.")
    for part in parts_of(statements[0]["node"]["where_clause"]):
        _check(part)
    # It is one by itself, too: "true) OR (true" only is within the parentheses.
    _check_parsed(where, _parse(connection, f"\n{where}\n"))
    return parsed


def _check_parsed(where: str, parsed: dict[str, Any]) -> None:
    if parsed.get("error"):
        raise QueryError(f"{where!r} is not a valid condition: {_first_line(parsed.get('error_message', ''))}.")


def _parse(connection: Any, condition: str) -> dict[str, Any]:
    """The tree of a statement that ends in a condition, or why there is none."""
    sql = "SELECT json_serialize_sql(?::VARCHAR, skip_null := true)"
    [[text]] = connection.execute(sql, [_BEFORE + condition]).fetchall()
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _bare(value: Any) -> Any:
    """A part of a statement without its condition, and without positions in its text."""
    if isinstance(value, dict):
        return {k: _bare(v) for k, v in value.items() if not k.startswith("query_location") and k != "where_clause"}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def _check(node: dict[str, Any]) -> None:
    kind = node["class"]
    if kind == "FUNCTION":
        name = ".".join(node["qualified_name"]["path"]).lower()
        if name in _INSTEAD:
            raise QueryError(
                f"A filter cannot use {'a list in parentheses' if name == 'row' else name}; {_INSTEAD[name]}."
            )
        if name not in FUNCTIONS:
            raise QueryError(f"A filter cannot use the function {name}.")
        if node.get("distinct") or node.get("filter") or node.get("order_bys", {}).get("orders"):
            raise QueryError(f"A filter cannot use the function {name} as an aggregate.")
        if name in EXAMPLES and {each["expression"]["class"] for each in node["arguments"]} - {
            "COLUMN_REF",
            "CONSTANT",
        }:
            raise QueryError(f"{name} takes columns and plain values only, as in {EXAMPLES[name]}.")
    elif kind == "OPERATOR":
        if node["type"] not in _OPERATORS:
            raise QueryError(f"A filter cannot use {_plain(node['type'])}.")
    elif kind == "TYPE":
        if (name := str(node.get("type_name", "")).upper()) not in TYPES:
            raise QueryError(f"A filter cannot cast to {name or 'this type'}.")
    elif kind not in _CLASSES:
        raise QueryError(f"A filter cannot contain a {_plain(kind)}: it compares columns with constants.")


def _plain(name: str) -> str:
    return name.removeprefix("OPERATOR_").replace("_", " ").lower()


def _first_line(message: str) -> str:
    return message.partition("\n")[0].rstrip(".")
