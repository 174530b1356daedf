"""A DuckDB database over one snapshot: what conditions, counts and orders of columns are read from.

What people ask may be anything: the database reaches no file but the snapshot's own, loads no extension, its
configuration is locked, and every session has a time limit.
"""

import glob
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm2clip_search.engine.columns import column_types
from llm2clip_search.engine.held_columns import HeldColumns
from llm2clip_search.engine.kinds import Kind, kind_of_column
from llm2clip_search.engine.own_functions import DEFINITIONS
from llm2clip_search.engine.time_limit import time_limit
from llm2clip_search.errors import DamagedError, first_line
from llm2clip_search.store import METADATA_SCHEMA, Snapshot
from llm2clip_search.store.shard import METADATA, Shard

FILE = "__file"
"""Column of a scan that names the file of a row."""
VIEW = "images"
"""The live rows with the columns as users know them."""


class Database:
    """Stays warm, and may be asked by several threads, each in a session of its own."""

    def __init__(self, snapshot: Snapshot) -> None:
        import duckdb

        types = column_types(snapshot.schema)
        self.columns = tuple(types)
        self.kinds: dict[str, Kind] = {name.casefold(): kind_of_column(each) for name, each in types.items()}
        """Of the columns, by name in lower case."""
        self._connection = connect([str(shard.metadata_path) for shard in snapshot.shards])
        execute = self._connection.execute
        self._connection.register("dead_rows", _dead_rows(snapshot))
        execute("CREATE TABLE dead AS SELECT * FROM dead_rows")
        self._snapshot = snapshot
        for shard in snapshot.shards:  # DuckDB compares no checksums
            shard.confirm(METADATA)
        try:
            execute(_live_rows(snapshot))
        except duckdb.Error as error:
            self.refuse_damage()
            raise DamagedError(f"The metadata in {snapshot.folder} cannot be read: {first_line(error)}.") from error
        execute(_IMAGES)
        self._held = HeldColumns(snapshot, [name for name in types if self._may_be_held(name)], view=VIEW)

    @contextmanager
    def session(self, seconds: float) -> Iterator["Session"]:
        """A session of so many seconds; after them, what it runs raises ``duckdb.InterruptException``."""
        with self._connection.cursor() as cursor, time_limit(cursor, seconds):
            yield Session(cursor, self._held, seconds)

    def _may_be_held(self, name: str) -> bool:
        """False for lists and objects that corpora brought along, whose size `HeldColumns` does not bound."""
        return name in METADATA_SCHEMA.names or self.kinds[name.casefold()] != "unknown"

    def hold(self, columns: Iterable[str]) -> None:
        """Load columns into memory now, so far as they may be held, instead of when they are asked for again."""
        with self._connection.cursor() as cursor:
            self._held.hold(cursor, frozenset(columns))

    def refuse_damage(self) -> None:
        """Read all metadata, because DuckDB's messages do not name the file.

        Raises:
            DamagedError: the first file that is damaged.
        """
        for shard in self._snapshot.shards:
            shard.read(sorted(shard.columns))


class Session:
    """One cursor of a database."""

    def __init__(self, cursor: Any, held: HeldColumns, seconds: float) -> None:
        self.cursor = cursor
        self._held, self._seconds = held, seconds

    def source(self, columns: Iterable[str]) -> str:
        """Table or view, under the name of the view, to read some columns of the live rows from.

        Loading them into memory may take half of the session's time; the other half is enough to read the files.
        """
        return f"{self._held.source(self.cursor, frozenset(columns), self._seconds / 2)} AS {VIEW}"

    def arrays(self, sql: str) -> Mapping[str, Any]:
        """The columns of a query's result as numpy arrays."""
        found: Mapping[str, Any] = self.cursor.execute(sql).fetchnumpy()
        return found

    def table(self, sql: str) -> pa.Table:
        """The rows of a query's result as Arrow has them."""
        return self.cursor.sql(sql).to_arrow_table()

    def register(self, name: str, table: pa.Table) -> None:
        """Let queries of this session read a table under a name."""
        self.cursor.register(name, table)

    def run(self, sql: str) -> None:
        """Run a statement that gives nothing."""
        self.cursor.execute(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query's result."""
        found: list[tuple[Any, ...]] = self.cursor.execute(sql).fetchall()
        return found


def connect(files: list[str]) -> Any:
    """A new database in memory that conditions may be run in: it reaches some files only, and has our functions.

    What does not fit into memory is written to a folder of its own among the system's temporary files, which exists
    for as long as it is needed. DuckDB's default is the working directory.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    execute = connection.execute
    spilled = Path(tempfile.gettempdir(), f"llm2clip-search-{secrets.token_hex(8)}")
    execute(f"SET temp_directory = {_text(str(spilled))}")
    execute("SET GLOBAL python_enable_replacements = false")
    execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
    execute("SET GLOBAL parquet_metadata_cache = true; SET GLOBAL TimeZone = 'UTC'")
    execute(f"SET allowed_paths = {_list([*files, *map(_literal, files)])}")
    execute("SET enable_external_access = false; SET lock_configuration = true")
    for definition in DEFINITIONS:
        execute(definition)
    return connection


def quoted(name: str) -> str:
    """A column's name as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


_IMAGES = (
    f"CREATE VIEW {VIEW} AS SELECT * EXCLUDE (mtime_ns, version, described), make_timestamp(mtime_ns // 1000) AS mtime"
    " FROM live"
)


def _live_rows(snapshot: Snapshot) -> str:
    """The view of live rows with whole paths: shards as they are, and shards with dead rows without those."""
    below = f"{_text(f'{snapshot.stored_base}/')} || path"
    # Patterns that DuckDB turns into prefix and substring searches; a regular expression takes three times as long.
    is_whole = "starts_with(path, '/') OR contains(path, '://')" + (" OR path LIKE '_:/%'" if os.name == "nt" else "")
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
    files = _list([_literal(str(shard.metadata_path)) for shard in shards])
    file = f", filename = '{file_column}'" if file_column else ""
    return f"read_parquet({files}, union_by_name = true{file})"


def _literal(path: str) -> str:
    """A path as the pattern that it alone matches, which is how DuckDB reads paths."""
    return glob.escape(path)


def _list(texts: list[str]) -> str:
    return "[" + ", ".join(map(_text, texts)) + "]"


def _text(text: str) -> str:
    """A text as SQL writes it, whatever is in it."""
    return "'" + text.replace("'", "''") + "'"
