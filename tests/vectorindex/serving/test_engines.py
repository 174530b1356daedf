"""What every serving engine does alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llm2clip_search.base.progress import no_progress
from llm2clip_search.errors import EngineError
from llm2clip_search.vectorindex.conditions import Compared
from llm2clip_search.vectorindex.serving import lance
from llm2clip_search.vectorindex.serving.engine import (
    SAMPLES,
    RowBatch,
    ServingEngine,
    TypedCondition,
    sample_below,
    samples_of,
)
from llm2clip_search.vectorindex.serving.lance import LanceEngine
from llm2clip_search.vectorindex.serving.qdrant import RECORD, QdrantEngine
from llm2clip_search.vectorindex.serving.qdrant_edge import QdrantEdgeEngine
from llm2clip_search.vectorindex.serving.state import FORMAT, Measured, Published, ServingPoint
from tests.support.serving import DIM, MODEL, engine_of, vectors_of

SCHEMA = pa.schema([("id", pa.int64()), ("width", pa.int32()), ("camera", pa.string()), ("a.b", pa.list_(pa.string()))])
STATE = Published(
    index="1" * 32,
    folder="/photos/.llm2clip",
    model=MODEL,
    dim=DIM,
    dtype="float16",
    base="/photos",
    generation=3,
    next_id=100,
    rows=40,
    sources=({"uri": ".", "modality": "image"},),
    columns=(),
    shards={"000001": "abc"},
    measured=Measured(
        queries="midpoints",
        exact_ms=1.5,
        points=(ServingPoint(share=1.0, effort=64, recall=0.99, milliseconds=2.0, p95_ms=3.0),),
    ),
)


def batch(ids: list[int], width: int = 10) -> RowBatch:
    rows = [
        {"id": n, "width": width + n % 5, "camera": f"c{n % 3}" if n % 4 else None, "a.b": ["x"] * (n % 2) or None}
        for n in ids
    ]
    return RowBatch(pa.Table.from_pylist(rows, schema=SCHEMA))


def stored(ids: list[int]) -> np.ndarray:
    return vectors_of(ids).astype(np.float16)


@pytest.fixture
def filled(engine: ServingEngine) -> ServingEngine:
    """Forty rows."""
    engine.create(SCHEMA, dim=DIM, dtype="float16")
    engine.write_state(STATE)
    engine.add(batch(list(range(40))), stored(list(range(40))))
    engine.finish(no_progress)
    return engine


def width_is(value: int) -> TypedCondition:
    return TypedCondition(Compared(column="width", how="=", value=value), {"width": pa.int32()})


def test_nothing_is_there_before_it_is_made(engine: ServingEngine) -> None:
    assert engine.state() is None


def test_the_record_comes_back(filled: ServingEngine) -> None:
    assert filled.state() == STATE
    filled.write_state(replace(STATE, is_complete=True, measured=None))
    assert filled.state() == replace(STATE, is_complete=True, measured=None)


def test_vectors_and_rows_come_back_to_the_bit(filled: ServingEngine) -> None:
    ids, vectors = filled.vectors(np.array([3, 17, 99]))
    assert ids.tolist() == [3, 17]
    assert np.array_equal(vectors, stored([3, 17]).astype(np.float32))
    assert filled.rows([17, 4, 99], SCHEMA) == {row["id"]: row for row in batch([4, 17]).table.to_pylist()}


def test_rows_are_counted_listed_and_found_by_digest(filled: ServingEngine) -> None:
    assert filled.count() == 40
    assert filled.count(width_is(12)) == 8
    assert sorted(np.concatenate(list(filled.ids())).tolist()) == list(range(40))
    expected = batch([5, 6]).digests.tolist()
    assert filled.digests(np.array([5, 6, 77])) == dict(zip([5, 6], expected, strict=True))


def test_exact_search_equals_a_product(filled: ServingEngine) -> None:
    queries = vectors_of([500, 501])
    scores, ids = filled.search(queries, 7)
    products = queries @ stored(list(range(40))).astype(np.float32).T
    assert ids.tolist() == np.argsort(-products, axis=1)[:, :7].tolist()
    assert np.allclose(scores, -np.sort(-products, axis=1)[:, :7], atol=2e-3)


@pytest.mark.parametrize("effort", [None, 64])
def test_only_matching_and_allowed_rows_are_found(filled: ServingEngine, effort: int | None) -> None:
    queries = vectors_of([500])
    _, found = filled.search(queries, 20, condition=width_is(12), effort=effort)
    assert sorted(found[found >= 0].tolist()) == list(range(2, 40, 5))
    _, found = filled.search(queries, 5, allowed=np.array([2, 3, 7, 90]), effort=effort)
    assert sorted(found[0].tolist()) == [-1, -1, 2, 3, 7]
    _, found = filled.search(queries, 5, condition=width_is(12), allowed=np.array([2, 3, 7]), effort=effort)
    assert sorted(found[found >= 0].tolist()) == [2, 7]


def test_no_query_has_no_answer(filled: ServingEngine) -> None:
    scores, ids = filled.search(np.empty((0, DIM), dtype=np.float32), 3)
    assert scores.shape == ids.shape == (0, 3)


def test_other_columns_leave_the_vector(filled: ServingEngine) -> None:
    filled.describe(batch([3, 4], width=100))
    assert filled.count(width_is(103)) == 1
    assert filled.count(width_is(13)) == 7
    assert filled.count() == 40
    assert np.array_equal(filled.vectors(np.array([3]))[1], stored([3]).astype(np.float32))
    assert filled.digests(np.array([3])) == {3: int(batch([3], width=100).digests[0])}


def test_deleted_rows_are_gone_and_may_be_deleted_again(filled: ServingEngine) -> None:
    filled.delete(np.array([0, 1, 2, 88]))
    filled.delete(np.array([0]))
    assert filled.count() == 37
    assert filled.vectors(np.array([0, 1, 2]))[0].tolist() == []
    _, found = filled.search(vectors_of([0]), 40)
    assert 0 not in found


def test_new_columns_find_room(filled: ServingEngine) -> None:
    wider = SCHEMA.append(pa.field("stars", pa.int8()))
    filled.extend(wider)
    filled.extend(wider)
    table = pa.Table.from_pylist([{"id": 70, "width": 1, "stars": 5}], schema=wider)
    filled.add(RowBatch(table), stored([70]))
    assert filled.rows([70, 1], wider)[70]["stars"] == 5
    assert filled.rows([70, 1], wider)[1]["stars"] is None
    condition = TypedCondition(Compared(column="stars", how=">", value=4), {"stars": pa.int8()})
    assert filled.count(condition) == 1


EVERY_TYPE = pa.schema(
    [
        *(("id", pa.int64()), ("flag", pa.bool_()), ("day", pa.date32()), ("old day", pa.date64()), ("i8", pa.int8())),
        *(("u32", pa.uint32()), ("u64", pa.uint64()), ("f32", pa.float32()), ("s", pa.timestamp("s"))),
        *(("zoned", pa.timestamp("us", "Europe/Berlin")), ("clock", pa.time64("us")), ("price", pa.decimal128(9, 2))),
        *((f"list of {each}", pa.list_(each)) for each in (pa.int64(), pa.bool_(), pa.string(), pa.float64())),
        *(("times", pa.list_(pa.timestamp("s"))), ("a.b `c` [d]", pa.string()), ("größe", pa.int32())),
    ]
)


@pytest.mark.parametrize("kind", ["edge", "lance"])
def test_columns_of_every_type_can_be_indexed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance, "INDEXED_FROM", 100)
    ids = list(range(300))
    empty = [pa.array(ids) if field.name == "id" else pa.nulls(300, field.type) for field in EVERY_TYPE]
    engine = engine_of(kind, tmp_path)
    engine.create(EVERY_TYPE, dim=DIM, dtype="float16")
    engine.add(RowBatch(pa.table(empty, schema=EVERY_TYPE)), stored(ids))
    engine.finish(no_progress)
    queries = vectors_of([7, 250])
    assert engine.search(queries, 1, effort=100)[1].tolist() == [[7], [250]]
    assert engine.search(queries, 1, condition=sample_below(SAMPLES), effort=100)[1].tolist() == [[7], [250]]
    engine.close()


def test_samples_are_filters_of_a_known_share(filled: ServingEngine) -> None:
    many = samples_of(np.arange(100_000))
    assert abs((many < 10).mean() - 0.01) < 0.002
    assert many.min() == 0
    assert many.max() == SAMPLES - 1
    assert filled.count(sample_below(300)) == int((samples_of(np.arange(40)) < 300).sum())


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    engines: list[tuple[ServingEngine, ServingEngine]] = [
        (QdrantEdgeEngine(tmp_path / "e"), QdrantEdgeEngine(tmp_path / "e")),
        (LanceEngine(str(tmp_path / "l")), LanceEngine(str(tmp_path / "l"))),
    ]
    for first, again in engines:
        first.create(SCHEMA, dim=DIM, dtype="float32")
        first.add(batch([1, 2]), vectors_of([1, 2]))
        first.write_state(STATE)
        first.close()
        assert again.state() == STATE
        assert again.count() == 2
        assert np.array_equal(again.vectors(np.array([1, 2]))[1], vectors_of([1, 2]))
        again.close()


def test_a_record_of_a_later_version_or_of_something_else_is_refused() -> None:
    newer = {**STATE.to_dict(), "format": FORMAT + 1}
    with pytest.raises(EngineError, match=f"format {FORMAT + 1}, newer than {FORMAT}"):
        Published.from_dict(newer, "lance:x")
    for other in ({}, None, [1], {"format": 1}, {**STATE.to_dict(), "dim_": 3}, {**STATE.to_dict(), "measured": {}}):
        with pytest.raises(EngineError, match="record of lance:x"):
            Published.from_dict(other, "lance:x")


def test_collections_and_folders_of_others_are_refused(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection("theirs", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    others: list[ServingEngine] = [
        QdrantEngine("qdrant::memory:/theirs", "theirs", client),
        QdrantEdgeEngine(tmp_path / "folder"),
        LanceEngine(str(tmp_path / "folder")),
    ]
    for engine in others:
        with pytest.raises(EngineError, match="no index was published to it"):
            engine.state()
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine"


def test_a_publish_that_died_while_it_made_the_first_record_is_begun_again(tmp_path: Path) -> None:
    engine = LanceEngine(str(tmp_path / "l"))
    engine.create(SCHEMA, dim=DIM, dtype="float16")
    data = tmp_path / "l" / "published.lance" / "data"
    data.mkdir(parents=True)
    (data / "0.lance").write_bytes(b"begun")
    again = LanceEngine(str(tmp_path / "l"))
    assert again.state() is None
    again.create(SCHEMA, dim=DIM, dtype="float16")
    again.write_state(STATE)
    assert LanceEngine(str(tmp_path / "l")).state() == STATE


def test_a_server_that_keeps_no_metadata_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from qdrant_client import QdrantClient

    client = QdrantClient(":memory:")
    engine = QdrantEngine("qdrant:http://old/photos", "photos", client)
    engine.create(SCHEMA, dim=DIM, dtype="float16")
    update = client.update_collection
    monkeypatch.setattr(client, "update_collection", lambda name, **given: update(name, metadata={RECORD: None}))
    with pytest.raises(EngineError, match=r"Qdrant 1\.16 or newer"):
        engine.write_state(STATE)


def test_one_process_at_a_time_has_a_folder_of_the_core_open(tmp_path: Path) -> None:
    first, second = QdrantEdgeEngine(tmp_path / "e"), QdrantEdgeEngine(tmp_path / "e")
    first.create(SCHEMA, dim=DIM, dtype="float16")
    with pytest.raises(EngineError, match=r"has qdrant-edge:.* open"):
        second.count()
    first.close()
    assert second.count() == 0
    second.close()
