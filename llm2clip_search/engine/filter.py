"""Filters: a user's SQL condition to a set of ids, by DuckDB over the index's own Parquet files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.engine.condition import read_condition
from llm2clip_search.engine.held_columns import HeldColumns
from llm2clip_search.engine.kinds import Kind, kind_of_column
from llm2clip_search.errors import DamagedError, QueryError, first_line
from llm2clip_search.store import METADATA_SCHEMA, Snapshot
from llm2clip_search.store.names import encode
from llm2clip_search.store.schema import metadata_schema
from llm2clip_search.store.shard import Shard

COLUMNS = tuple(name for name in METADATA_SCHEMA.names if name not in ("mtime_ns", "version", "described"))
"""Fixed columns that a condition may use besides ``mtime``, a timestamp; ``path`` is an absolute path or a URI. Columns
that corpora brought along come in addition."""
FILE = "__file"
"""Column of a scan that names the file of a row."""
TIME_LIMIT_S = 60.0
"""A filter that takes longer is stopped: backstop to `check_condition`."""


class Filter:
    """Conditions over one snapshot: one DuckDB database that stays warm, and may be asked by several threads.

    Conditions are untrusted: the database reaches no file but the snapshot's own, loads no extension, and its
    configuration is locked.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        import duckdb

        self._columns = (*COLUMNS, *(column.name for column in snapshot.manifest.columns), "mtime")
        schema = metadata_schema(snapshot.manifest.columns)
        self._kinds: dict[str, Kind] = {field.name.casefold(): kind_of_column(field.type) for field in schema}
        self._kinds["mtime"] = "time"
        self._connection = duckdb.connect(":memory:")
        execute = self._connection.execute
        execute("SET GLOBAL python_enable_replacements = false")
        execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
        execute("SET GLOBAL parquet_metadata_cache = true; SET GLOBAL TimeZone = 'UTC'")
        files = [str(shard.metadata_path) for shard in snapshot.shards]
        execute(f"SET allowed_paths = {_list(files)}")
        execute("SET enable_external_access = false; SET lock_configuration = true")
        self._connection.register("dead_rows", _dead_rows(snapshot))
        execute("CREATE TABLE dead AS SELECT * FROM dead_rows")
        self._snapshot = snapshot
        try:
            execute(_live_rows(snapshot))
        except duckdb.Error as error:
            self._refuse_damage()
            raise DamagedError(f"The metadata in {snapshot.folder} cannot be read: {first_line(error)}.") from error
        execute(_IMAGES)
        self._held = HeldColumns(snapshot, (*COLUMNS, "mtime"), view="images")

    def ids(self, where: str, *, modality: str | None = None) -> np.ndarray:
        """Ids, ascending int64, of the live rows that meet a condition.

        Args:
            modality: image or text, if only such rows count.

        Raises:
            QueryError: SQL that is wrong, names an unknown column, is more than one condition, uses something that
                is not on the allow-list, or takes longer than `TIME_LIMIT_S`.
            DamagedError: the metadata of a shard is damaged.
        """
        import duckdb

        where = encode(where)  # a name in it is compared with names as they are stored
        with self._connection.cursor() as cursor:
            try:
                condition = read_condition(cursor, where, self._kinds)
                columns = condition.columns if modality is None else condition.columns | {"modality"}
                source = self._held.source(cursor, columns)
                with time_limit(cursor, TIME_LIMIT_S):
                    sql = f"SELECT id FROM {source} AS images WHERE (\n{condition.sql}\n){_OF_MODALITY[modality]}"
                    found = cursor.execute(sql).fetchnumpy()["id"]
            except duckdb.InterruptException as error:
                raise QueryError(f"The condition took longer than {TIME_LIMIT_S:.0f} s.") from error
            except (duckdb.BinderException, duckdb.ConversionException) as error:
                raise QueryError(self._sentence(where, error)) from error
            except duckdb.Error as error:  # is the condition at fault, or what it reads?
                self._refuse_damage()
                raise QueryError(self._sentence(where, error)) from error
        ids = np.asarray(found, dtype=np.int64)
        # Each file gives ascending ids; a stable sort merges such runs in a tenth of the time.
        return ids if bool((ids[1:] > ids[:-1]).all()) else np.sort(ids, kind="stable")

    def _refuse_damage(self) -> None:
        """Read all metadata, because DuckDB's messages do not name the file.

        Raises:
            DamagedError: the first file that is damaged.
        """
        for shard in self._snapshot.shards:
            shard.read(sorted(shard.columns))

    def _sentence(self, where: str, error: Exception) -> str:
        message = str(error)
        if match := re.search(r'column "?([^"\s]+)"? not found', message):
            columns = ", ".join(self._columns)
            return (
                f"The condition names a column {match[1]!r} that does not exist; the columns are {columns}, and text is"
                f" written in single quotes."
            )
        first = message.splitlines()[0] if message else type(error).__name__
        return f"{where!r} is not a valid condition: {first.partition(': ')[2] or first}"


_OF_MODALITY = {
    None: "",
    "text": " AND modality = 'text'",
    "image": " AND modality IS DISTINCT FROM 'text'",  # null before schema 5
}
_IMAGES = (
    "CREATE VIEW images AS SELECT * EXCLUDE (mtime_ns, version, described), make_timestamp(mtime_ns // 1000) AS mtime"
    " FROM live"
)
"""The view that conditions are evaluated on: the columns as users know them."""


@contextmanager
def time_limit(cursor: Any, seconds: float) -> Iterator[None]:
    """Interrupt what a DuckDB cursor runs within, once it has taken this long: an ``InterruptException``."""
    timer = Timer(seconds, cursor.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _live_rows(snapshot: Snapshot) -> str:
    """The view of live rows with whole paths: shards as they are, and shards with dead rows without those."""
    base = snapshot.stored_base.replace("'", "''")
    below = f"'{base}/' || path"
    # Patterns that DuckDB turns into prefix and substring searches; a regular expression takes three times as long.
    is_whole = "starts_with(path, '/') OR contains(path, '://') OR path LIKE '_:/%'"
    parts = []
    for relative, path in ((True, below), (False, f"CASE WHEN {is_whole} THEN path ELSE {below} END")):
        located = f"REPLACE ({path} AS path)"
        shards = [shard for shard in snapshot.shards if shard.entry.relative == relative]
        if whole := [shard for shard in shards if not len(shard.dead)]:
            parts.append(f"SELECT * {located} FROM {_scan(whole)}")
        if partly := [shard for shard in shards if len(shard.dead)]:
            same = f"shard.{FILE} = dead.file AND shard.id = dead.id"
            rows = f"SELECT * FROM {_scan(partly, FILE)} AS shard ANTI JOIN dead ON {same}"
            parts.append(f"SELECT * EXCLUDE ({FILE}) {located} FROM ({rows})")
    # Shards of schema 1 lack some of the fixed columns, and where there are no others the view would lack them, too.
    fixed = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in METADATA_SCHEMA)
    return "CREATE VIEW live AS " + " UNION ALL BY NAME ".join([*parts, f"SELECT {fixed} WHERE false"])


def _sql_type(arrow: pa.DataType) -> str:
    """DuckDB's name of a type of the fixed columns."""
    names = {
        "string": "VARCHAR",
        "int64": "BIGINT",
        "int32": "INTEGER",
        "double": "DOUBLE",
        "timestamp[s]": "TIMESTAMP_S",
    }
    return f"{names[str(arrow.value_type)]}[]" if pa.types.is_list(arrow) else names[str(arrow)]


def _dead_rows(snapshot: Snapshot) -> pa.Table:
    """Rows that do not count: the file of their shard, and their id."""
    partly = [shard for shard in snapshot.shards if len(shard.dead)]
    files = [pa.array([str(shard.metadata_path)] * len(shard.dead)) for shard in partly]
    ids = [pa.array(shard.dead) for shard in partly]
    return pa.table({"file": pa.chunked_array(files, pa.string()), "id": pa.chunked_array(ids, pa.int64())})


def _scan(shards: list[Shard], file_column: str = "") -> str:
    """Rows of some shards, with the file of each if asked; what a shard of an earlier schema lacks is null."""
    files = _list([str(shard.metadata_path) for shard in shards])
    file = f", filename = '{file_column}'" if file_column else ""
    return f"read_parquet({files}, union_by_name = true{file})"


def _list(texts: list[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"
