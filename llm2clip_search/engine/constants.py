"""Values of the parts of a condition that name no column, evaluated by DuckDB."""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from llm2clip_search.engine.condition import sql_of
from llm2clip_search.engine.database import VIEW
from llm2clip_search.engine.kinds import NOW, Node, name_of, parts_of
from llm2clip_search.engine.placing import INFINITE, is_moment, is_text
from llm2clip_search.errors import first_line
from llm2clip_search.vectorindex.conditions import UntranslatableError

_SHORT = re.compile(r"-?(?=[\d.]{1,15}\Z)(\d+\.?\d*|\.\d+)", re.ASCII)
"""Numbers that DuckDB and Python make the same float of, because both have few digits."""
_CLOCK = NOW | {"now", "get_current_timestamp", "today", "get_current_date"}
_LIST: Node = {
    "class": "FUNCTION",
    "type": "FUNCTION",
    "alias": "",
    "function_name": "list_value",
    "qualified_name": {"path": ["list_value"]},
    "is_operator": False,
    "distinct": False,
    "order_bys": {"type": "ORDER_MODIFIER", "orders": []},
    "export_state": False,
}


def asks_for_time(meant: Node) -> bool:
    """Whether a condition means something else later; a column of such a name does not matter."""
    parts = list(parts_of(meant))
    named = {part["column_names"][-1].casefold() for part in parts if part["class"] == "COLUMN_REF"}
    return bool(_CLOCK & (named | {name_of(part) for part in parts if part["class"] == "FUNCTION"}))


class Constants:
    """Of one condition. All methods raise `UntranslatableError` for what DuckDB cannot evaluate."""

    def __init__(self, cursor: Any) -> None:
        """``cursor`` is of a database whose only row has nulls in all columns."""
        self._cursor = cursor

    def truth(self, node: Node) -> bool | None:
        """Whether a part is true."""
        [[known]] = self._run(f"SELECT CAST(({sql_of(self._cursor, node)}) AS BOOLEAN)")
        return None if known is None else bool(known)

    def is_null(self, node: Node) -> bool:
        """Whether a part is null."""
        if node["class"] == "CONSTANT":
            return bool(node["literal"]["kind"] == "NULL_LITERAL")
        return bool(self._run(f"SELECT ({sql_of(self._cursor, node)}) IS NULL")[0][0])

    def values(self, nodes: Sequence[Node]) -> list[Any]:
        """Values of parts that are text, truth values or lists."""
        return [
            node["literal"]["text"]
            if node["class"] == "CONSTANT" and node["literal"]["kind"] == "STRING"
            else self._run(f"SELECT ({sql_of(self._cursor, node)})")[0][0]
            for node in nodes
        ]

    def compared(self, part: Node, nodes: Sequence[Node], *, are_list: bool = False) -> tuple[list[Any], str]:
        """The values of parts that another part is compared with, and DuckDB's type that all are converted to.

        It is the type of a list of them. Times are microseconds since 1970.

        Args:
            are_list: they are items of a list, which are converted to a type of their own first.
        """
        lists = [[part], nodes] if are_list else [[part, *nodes]]
        sql = f"list_concat({', '.join(map(self._list, lists))})"
        [[name]] = self._run(f"SELECT typeof({sql}) FROM {VIEW}")
        name = str(name).removesuffix("[]")
        if not is_moment(name):
            [[values]] = self._run(f"SELECT {sql} FROM {VIEW}")
            return list(values[1:]), name
        moments = f"SELECT unnest({sql}) AS moment FROM {VIEW}"
        rows = self._run(f"SELECT moment > '1970-01-01', epoch_us(moment) FROM ({moments})")
        infinite = {None: None, True: INFINITE, False: -INFINITE}  # they have no microseconds
        return [infinite[late] if micros is None else micros for late, micros in rows[1:]], name

    def _list(self, nodes: Sequence[Node]) -> str:
        return sql_of(self._cursor, _LIST | {"arguments": [{"name": "", "expression": node} for node in nodes]})

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        import duckdb

        try:
            found: list[tuple[Any, ...]] = self._cursor.execute(sql).fetchall()
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            raise UntranslatableError(f"A part of the condition cannot be evaluated: {first_line(error)}.") from error
        return found


def literal(node: Node, arrow: pa.DataType) -> tuple[Any, str] | None:
    """The value of a literal that a column is compared with, and the type; None where DuckDB should be asked."""
    if node["class"] != "CONSTANT":
        return None
    kind, text = node["literal"]["kind"], str(node["literal"].get("text", ""))
    if kind == "STRING":
        return (text, "VARCHAR") if is_text(arrow) else None
    if kind == "INTEGER" and pa.types.is_integer(arrow):
        return int(text), "HUGEINT"
    is_number = kind in ("INTEGER", "NUMERIC") and pa.types.is_float64(arrow)
    return (float(text), "DOUBLE") if is_number and _SHORT.fullmatch(text) else None
