"""Filters: a user's SQL condition to a set of ids, in a DuckDB that can reach nothing else."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.errors import QueryError
from llm2clip_search.store import METADATA_SCHEMA, Snapshot

COLUMNS = tuple(name for name in METADATA_SCHEMA.names if name != "mtime_ns")
"""Columns that a condition may use besides ``mtime``, a timestamp; ``path`` is an absolute path or a URI."""


def filter_table(snapshot: Snapshot) -> pa.Table:
    """The table that conditions are evaluated on: `COLUMNS` and ``mtime``, one row per live image."""
    table = snapshot.metadata()
    stored = table.column("path")
    below = pc.binary_join_element_wise(snapshot.base.as_posix(), stored, "/")
    paths = pc.if_else(pc.match_substring_regex(stored, r"^(/|[A-Za-z]:/)|://"), stored, below)
    mtime = pc.cast(table.column("mtime_ns"), pa.timestamp("ns"))
    table = table.set_column(table.schema.get_field_index("path"), "path", paths)
    return table.drop_columns(["mtime_ns"]).append_column("mtime", mtime)


def matching_ids(snapshot: Snapshot, where: str) -> np.ndarray:
    """Ids, ascending int64, of the live rows that meet a SQL condition.

    The condition is untrusted: DuckDB runs without external access and extensions, with its configuration locked, and
    sees one table of metadata.

    Raises:
        QueryError: SQL that is wrong, names an unknown column, or is more than one condition.
    """
    import duckdb

    if not where.strip():
        raise QueryError("The condition is empty.", hint='Give --where a condition such as "width > 1000".')
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET python_enable_replacements = false")
        connection.register("images", filter_table(snapshot))
        connection.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        # Parsed as one expression, so that nothing in it can end the WHERE clause; the line break ends a comment.
        met = connection.table("images").filter(f"(\n{where}\n)")
        found = met.project("id").fetchnumpy()["id"]
    except duckdb.Error as error:
        raise QueryError(_sentence(where, error)) from error
    finally:
        connection.close()
    return np.unique(np.asarray(found, dtype=np.int64))


def _sentence(where: str, error: Exception) -> str:
    message = str(error)
    if "expression list" in message or "Expected a single" in message:
        return "A filter is one condition; several, or further clauses and statements, are not allowed."
    if match := re.search(r'column "?([^"\s]+)"? not found', message):
        columns = ", ".join([*COLUMNS, "mtime"])
        return f"The condition names a column {match[1]!r} that does not exist; the columns are {columns}."
    first = message.splitlines()[0] if message else type(error).__name__
    return f"{where!r} is not a valid condition: {first.partition(': ')[2] or first}"
