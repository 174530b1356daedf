"""Conditions as engines are asked them: random filters against DuckDB's answers, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from llm2clip_search.engine.columns import column_types
from llm2clip_search.engine.filter import Filter
from llm2clip_search.engine.translated import Translator
from llm2clip_search.errors import ConditionError, QueryError
from llm2clip_search.vectorindex.conditions import Condition, UntranslatableError
from llm2clip_search.vectorindex.serving.edge_filter import edge_filter
from llm2clip_search.vectorindex.serving.lance_filter import lance_filter
from llm2clip_search.vectorindex.serving.payload import (
    MARKS,
    VECTOR,
    indexed_columns,
    payload_of,
    qdrant_key,
    stored_name,
)
from llm2clip_search.vectorindex.serving.qdrant_filter import qdrant_filter
from tests.support.odd_rows import ODD_NAME, as_conditions_see, odd_index

Ask = Callable[[Condition], list[int]]
Types = dict[str, pa.DataType]


class Case:
    """One index, and the engines that hold its rows."""

    def __init__(self, folder: Path, seed: int = 0, *, is_indexed: bool = True) -> None:
        snapshot = odd_index(folder, seed=seed)
        self.types: Types = column_types(snapshot.schema)
        self.filter, self.translator = Filter(snapshot), Translator(self.types)
        table = as_conditions_see(snapshot)
        self.engines: dict[str, Ask] = {
            "client": _client(table, self.types),
            "core": _core(table, self.types, folder / "core", is_indexed),
            "lance": _lance(table, self.types, folder / "lance", is_indexed),
        }


def _client(table: pa.Table, types: Types) -> Ask:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection("rows", vectors_config=models.VectorParams(size=1, distance=models.Distance.DOT))
    points = [models.PointStruct(id=row["id"], vector=[1.0], payload=payload_of(row)) for row in table.to_pylist()]
    client.upsert("rows", points)

    def ask(condition: Condition) -> list[int]:
        asked = models.Filter.model_validate(qdrant_filter(condition, types))
        found, _ = client.scroll("rows", scroll_filter=asked, limit=10_000, with_payload=False)
        return sorted(int(point.id) for point in found)

    return ask


def _core(table: pa.Table, types: Types, folder: Path, is_indexed: bool) -> Ask:
    import qdrant_edge as edge

    folder.mkdir()
    config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot))
    shard = edge.EdgeShard.create(str(folder), config)
    kinds = {
        "keyword": edge.PayloadSchemaType.Keyword,
        "integer": edge.PayloadSchemaType.Integer,
        "float": edge.PayloadSchemaType.Float,
        "bool": edge.PayloadSchemaType.Bool,
        "datetime": edge.PayloadSchemaType.Datetime,
    }
    for name, kind in {MARKS: "keyword", **indexed_columns(table.schema)}.items() if is_indexed else ():
        shard.update(edge.UpdateOperation.create_field_index(qdrant_key(name), kinds[kind]))
    points = [edge.Point(row["id"], [1.0], payload_of(row)) for row in table.to_pylist()]
    shard.update(edge.UpdateOperation.upsert_points(points))
    if is_indexed:
        shard.optimize()

    def ask(condition: Condition) -> list[int]:
        asked = edge_filter(qdrant_filter(condition, types))
        found, _ = shard.scroll(edge.ScrollRequest(limit=10_000, filter=asked, with_payload=False))
        return sorted(int(point.id) for point in found)

    return ask


def _lance(table: pa.Table, types: Types, folder: Path, is_indexed: bool) -> Ask:
    import lancedb
    from lancedb.index import Bitmap, BTree, LabelList

    columns = {stored_name(name): table.column(name) for name in table.column_names}
    columns[VECTOR] = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(len(table), np.float32)), 1)
    rows = lancedb.connect(folder).create_table("rows", pa.table(columns))
    for name in indexed_columns(table.schema) if is_indexed else ():
        arrow = types[name]
        kind = LabelList() if pa.types.is_list(arrow) else Bitmap() if pa.types.is_boolean(arrow) else BTree()
        rows.create_index(stored_name(name), config=kind)

    def ask(condition: Condition) -> list[int]:
        found = rows.search().where(lance_filter(condition, types)).select(["id"]).limit(10_000).to_arrow()
        return sorted(found["id"].to_pylist())

    return ask


_NUMBERS = st.sampled_from(
    [
        *("0", "1", "-1", "5", "100", "127", "128", "-129", "1000", "999.5", "1000.0", "1e3", "0.1", "1.5", "0.1e0"),
        *("9007199254740992", "9007199254740993", "9007199254740993e0", "9.007199254740994e15", "-9007199254740993"),
        *("9223372036854775807", "-9223372036854775808", "99999999999999999999", "1e300", "-1e300", "1e-320", "48.14"),
        *("'5'", "'1000.5'", "CAST(0.1 AS REAL)", "CAST(16777217 AS REAL)", "CAST('nan' AS DOUBLE)", "2 * 3 - 1"),
        *("CAST('inf' AS DOUBLE)", "-CAST('inf' AS REAL)", "CAST(NULL AS INTEGER)", "nullif(1, 1)", "pi()"),
        *("CAST(1000 AS DECIMAL)", "CAST(5 AS HUGEINT)", "48.1400000000000000000001", "CAST(0 AS TINYINT)"),
    ]
)
_TEXTS = st.sampled_from(
    ["", "a", "A", "ab", "abc", "Canon", "it's", 'a"b', "a\\b", "a%b", "50%", "é", "😀", "\uffff"]
).map(lambda text: "'" + text.replace("'", "''") + "'")
_TEXTS |= st.sampled_from(["'a\nb'", "'NaN'", "'\udce9'", "lower('ABC')", "CAST(NULL AS VARCHAR)", "'JPEG'", "'2024'"])
_PATTERNS = st.sampled_from(
    ["abc", "a%", "%", "%%", "", "%a", "%a%", "A%", "a\\%", "50!%", "😀%", "%b", "a!%%", "it''s"]
)
_DAYS = ["'2024'", "'2024-05'", "'2024-05-17'", "'2024-05-17 10:30'", "'2024-05-17T10:30:00.000001'", "'9999-12-31'"]
_TIMES = st.sampled_from(
    [
        *_DAYS,
        *("'0001-01-01'", "'1969'", "current_date", "now()", "now() - INTERVAL 7 DAY", "DATE '2024-05-17'"),
        *("TIMESTAMP '2024-05-17 10:30:00.0000005'", "TIMESTAMP '2024-02-29 12:00:00.5'", "TIMESTAMP 'infinity'"),
        *("TIMESTAMPTZ '2024-05-17 12:30:00+02:00'", "CAST(NULL AS TIMESTAMP)", "date_trunc('year', now())"),
        *("TIMESTAMP '-infinity'", "DATE '12000-01-01'", "TIMESTAMP '2024-05-17'"),
    ]
)
_ODD = '"' + ODD_NAME.replace('"', '""') + '"'
_KINDS = [
    (st.sampled_from(["id", "size", "width", "rating", "wide", "tiny", "natural", "images.width", _ODD]), _NUMBERS),
    (st.sampled_from(["latitude", "single", "longitude"]), _NUMBERS),
    (st.sampled_from(["camera", "format", "path", "modality", "CAMERA"]), _TEXTS),
    (st.sampled_from(["taken", "mtime", "at", "zoned", "day", "CAST(taken AS DATE)", "at::TIMESTAMP"]), _TIMES),
]
_HOW = st.sampled_from(["=", "!=", "<>", "<", "<=", ">", ">=", "=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])


@st.composite
def _leaves(draw: Callable[..., Any]) -> str:
    columns, constants = draw(st.sampled_from(_KINDS))
    column, one, two = draw(columns), draw(constants), draw(constants)
    several = ", ".join(draw(st.lists(constants, min_size=1, max_size=4)))
    text, pattern = draw(st.sampled_from(["camera", "path", "format"])), draw(_PATTERNS)
    item = draw(st.sampled_from(["'sea'", "'it''s'", "''", "CAST(NULL AS VARCHAR)"]))
    number = draw(st.sampled_from(["1", "5", "CAST(2 AS TINYINT)", "99999999999"]))
    listed = draw(st.sampled_from(["keywords", "numbers"]))
    of_list = item if listed == "keywords" else number
    function = draw(st.sampled_from(["starts_with", "prefix", "ends_with", "suffix", "contains"]))
    east = draw(st.sampled_from([-160, 180]))
    folder = draw(st.sampled_from(["'/x'", "'/x/'", "'/x/0.jpg'", "'/'", "'s3://bucket'", "CAST(NULL AS VARCHAR)"]))
    return str(
        draw(
            st.sampled_from(
                [
                    *([f"{column} {draw(_HOW)} {one}"] * 6),
                    *([f"{one} {draw(_HOW)} {column}"] * 2),
                    f"{column} BETWEEN {one} AND {two}",
                    f"{column} NOT BETWEEN {one} AND {two}",
                    *([f"{column} IN ({several})", f"{column} NOT IN ({several})"] * 2),
                    f"{column} IN [{several}]",
                    f"{one} BETWEEN {column} AND {two}",
                    f"{text} LIKE '{pattern}'",
                    f"{text} NOT LIKE '{pattern}'",
                    f"{text} LIKE '{pattern}' ESCAPE '!'",
                    f"{text} NOT LIKE '{pattern}' ESCAPE '!'",
                    f"{function}({text}, {draw(_TEXTS)})",
                    f"is_under(path, {folder})",
                    f"is_within(latitude, longitude, {draw(st.integers(-90, 50))}, 170, 1e300, {east})",
                    f"list_contains({listed}, {of_list})",
                    f"array_contains({listed}, {of_list})",
                    f"list_has_any({listed}, [{of_list}, {of_list}])",
                    f"list_has_all({listed}, [{of_list}])",
                    f"{draw(st.sampled_from(['keywords', 'price', 'clock', 'camera', 'single', column]))} IS NULL",
                    f"{draw(st.sampled_from(['keywords', 'price', 'clock', 'flag', 'id', column]))} IS NOT NULL",
                    *("flag", "flag = false", "flag IS NOT TRUE", "flag != true", "flag IS DISTINCT FROM true"),
                    *("true", "1 = 0", "CAST(NULL AS BOOLEAN)", "5 IN (1, 5)", "'a' LIKE 'a%'", "flag IN (true)"),
                ]
            )
        )
    )


def _wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joined = st.builds(
        lambda word, parts: f"({word.join(parts)})",
        st.sampled_from([" AND ", " OR "]),
        st.lists(inner, min_size=2, max_size=4),
    )
    changed = st.builds(
        lambda form, part: form.format(part),
        st.sampled_from(
            [
                "NOT ({})",
                "NOT {}",
                "({}) IS TRUE",
                "({}) IS NOT TRUE",
                "({}) IS FALSE",
                "({}) IS NULL",
                "({}) = false",
                "({}) IS DISTINCT FROM true",
            ]
        ),
        inner.map(lambda part: f"({part})"),
    )
    return joined | changed


FILTERS = st.recursive(_leaves(), _wider, max_leaves=6)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("odd"))


def check(case: Case, where: str) -> None:
    """Every engine that has the condition finds DuckDB's rows."""
    try:
        expected = case.filter.ids(where).tolist()
    except ConditionError as error:
        event("DuckDB refuses it")
        if "Could not cast value" not in str(error):  # of a row
            with pytest.raises(QueryError):
                case.translator.translate(where)
        return
    try:
        condition = case.translator.translate(where)
    except UntranslatableError as error:
        event(f"translation: {str(error)[-60:]}")
        return
    for name, ask in case.engines.items():
        try:
            found = ask(condition)
        except UntranslatableError as error:
            event(f"{name}: {str(error)[:40]}")
            continue
        event(f"{name}: answered")
        assert found == expected, (name, where, condition)


QUICK = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@given(where=FILTERS)
@QUICK
def test_engines_find_the_rows_that_duckdb_finds(case: Case, where: str) -> None:
    check(case, where)
