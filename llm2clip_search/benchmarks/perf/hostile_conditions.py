"""Conditions that want to read files, change something, or ask for work without end; and what became of them."""

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm2clip_search.engine.filter import Filter
from llm2clip_search.errors import ConditionError
from llm2clip_search.store import Snapshot

_READERS = (
    *("read_csv", "read_csv_auto", "read_parquet", "parquet_scan", "parquet_metadata", "parquet_schema", "read_text"),
    *("read_blob", "read_json", "read_json_auto", "read_ndjson", "read_json_objects", "glob", "sniff_csv", "st_read"),
    *("sqlite_scan", "postgres_scan", "iceberg_scan", "delta_scan", "read_xlsx", "arrow_scan", "pandas_scan", "query"),
    *("query_table", "parquet_kv_metadata", "parquet_bloom_probe", "seq_scan", "python_map_function", "read_duckdb"),
)
_SETTINGS = (
    *("getenv('HOME')", "current_setting('threads')", "current_user", "current_database()", "current_schema()"),
    *(
        "version()",
        "which_secret('s3://x', 's3')",
        "nextval('s')",
        "txid_current()",
        "pg_sleep(100)",
        "sleep_ms(10000)",
    ),
    *("random()", "uuid()", "gen_random_uuid()", "hash(path)", "md5(path)", "getvariable('x')", "error('x')"),
    *("json_serialize_sql('SELECT 1')", "json_execute_serialized_sql('x')", "checkpoint()", "force_checkpoint()"),
)
_STATEMENTS = (
    *("COPY images TO '{file}.copy'", "COPY (SELECT 1) TO '{file}.copy'", "EXPORT DATABASE '{file}.export'"),
    *("IMPORT DATABASE '{file}'", "ATTACH '{file}.db' AS x", "ATTACH ':memory:' AS x", "DETACH memory"),
    *("INSTALL httpfs", "LOAD httpfs", "FORCE INSTALL spatial FROM community", "PRAGMA database_list"),
    *("PRAGMA enable_external_access", "SET enable_external_access = true", "SET lock_configuration = false"),
    *("SET temp_directory = '{file}.tmp'", "RESET allowed_paths", "CREATE TABLE x AS SELECT 1", "DROP VIEW images"),
    *("CREATE MACRO f() AS 1", "CREATE SECRET s (TYPE s3)", "CREATE OR REPLACE VIEW live AS SELECT 1"),
    *("INSERT INTO dead VALUES ('x', 1)", "UPDATE dead SET id = 0", "DELETE FROM dead", "TRUNCATE dead"),
    *("CALL pragma_version()", "CHECKPOINT", "VACUUM", "PREPARE p AS SELECT 1", "EXECUTE p", "USE memory", "BEGIN"),
    *("EXPLAIN ANALYZE SELECT 1", "SUMMARIZE images", "SHOW ALL TABLES", "VALUES (1)", "FROM images"),
)
_STRUCTURES = (
    *("true) UNION SELECT 1 FROM (SELECT 1 WHERE true", "true) UNION ALL SELECT id FROM dead WHERE (true"),
    *("true) ORDER BY (id", "true) GROUP BY (id", "true) LIMIT (1", "true) --", "true) /*", "true /*", "*/ true"),
    *("true)) OR ((true", "true); SELECT (1", "id IN (FROM dead)", "id IN (SELECT id FROM dead)", "(TABLE dead) = 1"),
    *("EXISTS (FROM duckdb_settings())", "EXISTS (FROM duckdb_secrets())", "EXISTS (FROM information_schema.tables)"),
    *("EXISTS (FROM '{file}')", 'EXISTS (FROM "{file}")', "EXISTS (FROM pragma_database_list)", "id = ANY (FROM dead)"),
    *("(WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r) SELECT max(x) FROM r) > 0", "id = $1"),
    *("id = ?", "id = $name", "COLUMNS(*) IS NULL", "* IS NULL", "images.* IS NULL", "id = (SELECT 1)", "#1 = 1"),
    *("(lambda x: x)(id) = 1", "list_transform([1], x -> x) = [1]", "[x FOR x IN [1, 2]] = [1]", "{{'a': id}}.a = 1"),
    *("id = 1 WINDOW w AS ()", "sum(id) OVER () > 0", "CASE WHEN true THEN true END", "id::BLOB = 'x'", "id::JSON = 1"),
    *("id::STRUCT(a INT) IS NULL", "id::INT[] IS NULL", "id::ENUM('a') IS NULL", "TRY_CAST(id AS UUID) IS NULL"),
    *("main.getenv('HOME') = 'x'", "system.main.getenv('HOME') = 'x'", "memory.main.images.id = 1", '"getenv"(1) = 1'),
    *(
        "path COLLATE NOCASE = 'x'",
        "GROUPING(id) = 1",
        "UNNEST([true])",
        "id AT TIME ZONE 'UTC' = 1",
        "ROW(1) = ROW(1)",
    ),
    *("path SIMILAR TO '.*' ESCAPE 'xx'", "DISTINCT id", "id IS NOT DISTINCT FROM (FROM dead)", "DEFAULT = 1"),
)
_DISGUISES = (
    *(
        "\u200bgetenv('HOME') = 'x'",
        "ge\u0301tenv('HOME') = 'x'",
        "\uff47etenv('HOME') = 'x'",
        "getenv\u00a0('HOME') = 'x'",
    ),
    *("GeTeNv('HOME') = 'x'", "getenv/**/('HOME') = 'x'", "getenv--\n('HOME') = 'x'", "true\0; DROP VIEW images"),
    *(
        "true;\u2028DROP VIEW images",
        "true \u037e DROP VIEW images",
        "path = $$x$$; DROP VIEW images",
        "path = E'\\x00'",
    ),
    *("path = U&'\\0027'; DROP VIEW images", "path = '\ud800'", "path = '\u202e'; --", "\ufefftrue; CHECKPOINT"),
    *("true \x1a; CHECKPOINT", "true \\g '{file}'", "path = 'a\\'; DROP VIEW images; --'", "\u2019x\u2019 = path"),
)
_BOMBS = (
    *("length(repeat('x', 2000000000)) > 0", "len(range(10000000000)) > 0", "len(generate_series(1, 10000000000)) > 0"),
    *(
        "lpad('x', 2000000000, 'y') = path",
        "format('{{:>2000000000}}', 'x') = path",
        "printf('%2000000000d', 1) = path",
    ),
    *("list_sum(range(10000000000)) > 0", "array_to_string(range(1000000000), '') = path", "bar(1, 0, 1, 1e9) = path"),
    *("EXISTS (FROM range(1000000000000))", "EXISTS (FROM images a, images b, images c, images d, images e)"),
    *(
        "regexp_matches(path, '(x{{1000}}){{1000}}')",
        "regexp_matches(path, '((a+)+)+$')",
        "path LIKE '%_%_%_%_%_%_%_%'",
    ),
    *(
        "regexp_matches(path, '(((((x{{99}}){{99}}){{99}}){{99}}){{99}})')",
        "regexp_full_match(path, '(.*)*(.*)*(.*)*x')",
    ),
    *("pow(10, 1e308) > 1", "exp(1e308) > 1", "2 ** 2 ** 2 ** 2 ** 2 ** 2 > 1", "id // 0 = 1", "1e400 > 1"),
    *("left(path, 9223372036854775807) = 'x'", "substring(path, -9223372036854775808, 9223372036854775807) = 'x'"),
    *("now() + to_years(2147483647) > now()", "make_date(2147483647, 12, 31) > now()", "last_day(taken) > 'infinity'"),
    *("strftime(taken, '%Y%m%d%H%M%S%f%j%c%x%X') = 'x'", "id::DECIMAL(38, 37) > 1", "id::HUGEINT * id::HUGEINT > 1"),
    *("99999999999999999999999999999999999999999999 > id", "km_between(km_between(1, 2, 3, 4), 2, 3, 4) > 1"),
    *("repeat(repeat(repeat('x', 1000), 1000), 1000) = path", "concat(path, path) = path", "path || path = path"),
)
_LONG = (
    "(" * 1500 + "true" + ")" * 1500,
    "NOT " * 1000 + "true",
    "true AND " * 450 + "true",
    "id IN (" + ",".join(map(str, range(900))) + ")",
    "path LIKE '" + "%a" * 2000 + "'",
    "path LIKE '" + "%_" * 2000 + "'",
    "regexp_matches(path, '" + "(.*)*" * 700 + "x')",
    "-" * 3000 + "1 > id",
    "+ " * 2000 + "1 > id",
    "least(" * 300 + "1" + ", 2)" * 300 + " > 0",
    "ifnull(" * 300 + "id" + ", 2)" * 300 + " > 0",
    "greatest(" + ", ".join(["id"] * 800) + ") > 0",
    "id = " + "9" * 4000,
    "'" * 4001,
    '"' * 4001,
    "[" * 2000 + "]" * 2000 + " IS NULL",
    " OR ".join(["path LIKE '%a%b%c%d%'"] * 150),
    " OR ".join(["regexp_matches(path, '(x{100}){10}')"] * 90),
)


@dataclass(kw_only=True)
class Attacked:
    """What became of hostile conditions."""

    attacks: int = 0
    refused: int = 0
    answered: int = 0
    """Conditions that are sound, such as a costly regular expression: they gave rows, or none."""
    crashes: int = 0
    """Other errors than a sentence."""
    read: int = 0
    """Answers with the content of a file."""
    written: int = 0
    """Files that are there afterwards and were not before."""
    slowest_s: float = 0.0
    """Seconds of the slowest one."""

    @property
    def got_through(self) -> int:
        """Attacks that did something."""
        return self.crashes + self.read + self.written

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def hostile_conditions(file: Path) -> Iterator[str]:
    """At least 200 conditions, each once.

    Args:
        file: that they want to read, and beside which they want to write.
    """
    for name in _READERS:
        yield f"{name}('{file}') IS NOT NULL"
        yield f"EXISTS (SELECT 1 FROM {name}('{file}'))"
    yield from (f"{setting} IS NOT NULL" for setting in _SETTINGS)
    for statement in _STATEMENTS:
        text = statement.format(file=file)
        yield text
        yield f"true; {text}"
    yield from (text.format(file=file) if "{file}" in text or "{{" in text else text for text in _STRUCTURES)
    yield from (text.replace("{file}", str(file)) for text in _DISGUISES)
    yield from (text.format() if "{{" in text else text for text in _BOMBS)
    yield from _LONG


def attack_conditions(snapshot: Snapshot, folder: Path, *, time_limit_s: float = 10.0) -> Attacked:
    """Ask an index all hostile conditions.

    Args:
        folder: an empty one, which is also the current folder, where files would be written.
    """
    secret = "a line that nobody may read"
    file = folder / "secret.csv"
    file.write_text(secret, encoding="utf-8")
    conditions, outcome = Filter(snapshot, time_limit_s=time_limit_s), Attacked()
    for where in hostile_conditions(file):
        before, said = time.perf_counter(), ""
        outcome.attacks += 1
        try:
            conditions.ids(where)
            outcome.answered += 1
        except ConditionError as error:
            outcome.refused += 1
            said = f"{error} {error.hint}"
        except Exception as error:
            outcome.crashes += 1
            said = str(error)
        outcome.read += secret in said
        outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - before)
    outcome.written = sum(len(files) + len(folders) for _, folders, files in os.walk(folder)) - 1
    # What may be asked is asked as before.
    assert len(conditions.ids("true")) == snapshot.manifest.live, "the rows are still there"
    return outcome
