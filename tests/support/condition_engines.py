"""Engines of conditions, filled with the rows of one odd index, and whether they find what DuckDB finds there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

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
from tests.support.odd_rows import as_conditions_see, odd_index

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


def check(case: Case, where: str) -> list[str]:
    """Every engine that has the condition finds DuckDB's rows.

    Returns:
        What came of it, by engine.
    """
    try:
        expected = case.filter.ids(where).tolist()
    except ConditionError as error:
        if "Could not cast value" not in str(error):  # of a row
            with pytest.raises(QueryError):
                case.translator.translate(where)
        return ["DuckDB refuses it"]
    try:
        condition = case.translator.translate(where)
    except UntranslatableError as error:
        return [f"no translation: {error}"]
    outcomes = []
    for name, ask in case.engines.items():
        try:
            found = ask(condition)
        except UntranslatableError as error:
            outcomes.append(f"{name}: {error}")
            continue
        assert found == expected, (name, where, condition)
        outcomes.append(f"{name}: answered")
    return outcomes


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
