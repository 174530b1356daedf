"""Searches of a serving engine equal those of the index, with the index at hand and without it."""

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm2clip_search import (
    ConditionError,
    EngineError,
    QueryError,
    Result,
    Searcher,
    SearchIndex,
    ServedIndex,
    StoreError,
    open_index,
    publish_index,
)
from llm2clip_search.engine import SearchPlan
from llm2clip_search.engine.engine_plan import EngineFacts, choose_serving_point, plan_engine
from llm2clip_search.engine.served_index import ServedRows
from llm2clip_search.store import SourceEntry, Writer
from llm2clip_search.vectorindex.serving.engine import ServingEngine
from llm2clip_search.vectorindex.serving.state import Measured, ServingPoint
from tests.support.encoders import ColourEncoder
from tests.support.serving import DIM, ENGINES, MODEL, commit, engine_of, rows_of, vectors_of

QUERIES: list[dict[str, Any]] = [
    {},
    {"k": 7, "offset": 5},
    {"where": "width > 700 AND camera = 'Camera 2'"},
    {"where": "taken > '2020-01-05' OR rating IN (1, 2)", "k": 40},
    {"where": "path LIKE '%/2012/%'"},
    {"where": "list_contains(keywords, 'dog')"},
    {"where": "camera IS NULL"},
    {"where": "mtime >= '2023-12-01'"},
    {"where": "width < 0"},
    {"unique": True},
    {"diverse": True, "k": 20},
    {"group_duplicates": 0.8},
    {"like": 17},
    {"like": 17, "sub": "a cat", "sort": "-taken"},
    {"recall": 1.0},
    {"threshold": 0.3},
    {"per_file": 1},
]


def found(result: Result) -> list[dict[str, Any]]:
    """The hits, with floats of the metadata rounded: Qdrant does not read their last bits back exactly."""
    return [
        {key: round(each, 9) if isinstance(each, float) and key != "score" else each for key, each in hit.items()}
        for hit in (hit.to_dict() for hit in result.hits)
    ]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServingEngine]:
    made = engine_of(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    commit(tmp_path / "photos", range(200))
    return commit(tmp_path / "photos", range(200, 250))


def local(index: Path) -> SearchIndex:
    return open_index(index, encoder=ColourEncoder())


def beside(index: Path, engine: ServingEngine) -> SearchIndex:
    return open_index(index, encoder=ColourEncoder(), engine=engine)


def alone(engine: ServingEngine) -> ServedIndex:
    return open_index(encoder=ColourEncoder(), engine=engine)


def test_hits_are_those_of_the_index_to_the_bit(index: Path, engine: ServingEngine) -> None:
    publish_index(index, engine)
    reference, with_index, without = local(index), beside(index, engine), alone(engine)
    assert len(without) == len(with_index) == 250
    assert without.columns == with_index.columns
    for options in QUERIES:
        caption = None if "like" in options else "a dog"
        expected = reference.query(caption, **options)
        served = with_index.query(caption, **options)
        assert found(served) == found(expected), options
        assert served.plan.device == ("cpu" if options.get("recall") or not expected.hits else "engine"), options
        by_itself = without.query(caption, **options)
        assert found(by_itself) == found(expected), options
        assert [hit.score for hit in by_itself.hits] == [hit.score for hit in expected.hits]


@pytest.fixture
def memory(tmp_path: Path) -> ServingEngine:
    return engine_of("memory", tmp_path)


def test_captions_of_a_batch_are_answered_alike(index: Path, memory: ServingEngine) -> None:
    publish_index(index, memory)
    captions = ["a dog", "a cat", "rain"]
    expected = [found(each) for each in local(index).query_batch(captions, where="width > 700")]
    for searcher in (beside(index, memory), alone(memory)):
        assert [found(each) for each in searcher.query_batch(captions, where="width > 700")] == expected
    fused: dict[str, Any] = {"fuse": "rank", "k": 30}
    assert found(alone(memory).query(captions, **fused)) == found(local(index).query(captions, **fused))


def test_a_condition_that_engines_lack_is_evaluated_here(index: Path, memory: ServingEngine) -> None:
    publish_index(index, memory)
    where = "lower(camera) = 'camera 1'"
    result = beside(index, memory).query("a dog", where=where)
    assert found(result) == found(local(index).query("a dog", where=where))
    assert "lower(camera) has no counterpart" in result.plan.reason
    with pytest.raises(ConditionError, match=r"cannot answer the condition: lower\(camera\)") as raised:
        alone(memory).query("a dog", where=where)
    assert "--index" in raised.value.hint


def test_a_wrong_condition_is_wrong_in_the_same_words(index: Path, memory: ServingEngine) -> None:
    publish_index(index, memory)
    for where in ("widht > 3", "width >", "width > 3; DROP TABLE images", "pg_sleep(3) > 0"):
        with pytest.raises(ConditionError) as expected:
            local(index).query("a dog", where=where)
        for searcher in (beside(index, memory), alone(memory)):
            with pytest.raises(ConditionError) as raised:
                searcher.query("a dog", where=where)
            assert str(raised.value) == str(expected.value)


def test_ids_are_sent_where_that_is_faster(index: Path, memory: ServingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_index(index, memory)
    monkeypatch.setattr("llm2clip_search.engine.engine_plan.GATHERED", 10**9)
    searcher = beside(index, memory)
    unlike: list[dict[str, Any]] = [{"where": "lower(camera) = 'camera 1'"}, {"among": [[3, 4, 17, 900]]}]
    for options in unlike:
        result = searcher.query("a dog", **options)
        assert found(result) == found(local(index).query("a dog", **options))
        assert result.plan.device == "engine"
        assert "whose ids are sent" in result.plan.reason
    assert found(alone(memory).query("a dog", among=[[3, 4, 17, 900]])) == found(result)
    monkeypatch.setattr(type(memory), "most_ids", 3)
    result = searcher.query("a dog", where="lower(camera) = 'camera 1'")
    assert result.plan.device == "cpu"
    assert "cannot be sent so many ids" in result.plan.reason
    with pytest.raises(EngineError, match="4 rows that are chosen by their ids needs the index"):
        alone(memory).query("a dog", among=[[3, 4, 17, 900]])


def test_what_was_committed_since_is_found_and_what_was_deleted_is_not(index: Path, engine: ServingEngine) -> None:
    publish_index(index, engine)
    best = local(index).query("a dog", k=3).hits
    commit(index.parent, range(250, 280), removed=[hit.id for hit in best])
    commit(index.parent, [5, 9], camera="New")
    reference, searcher = local(index), beside(index, engine)
    for options in (*QUERIES, {"where": "camera = 'New'"}, {"where": "camera != 'New'", "k": 200}):
        caption = None if "like" in options else "a dog"
        assert found(searcher.query(caption, **options)) == found(reference.query(caption, **options)), options
    assert searcher.query("a dog").plan.tail == 30
    publish_index(index, engine)
    assert beside(index, engine).query("a dog").plan.tail == 0


def test_a_publish_that_comes_later_is_noticed(
    index: Path, memory: ServingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_index(index, memory)
    commit(index.parent, range(250, 260), removed=[3])
    searcher = beside(index, memory)
    expected = found(searcher.query("a dog"))
    assert searcher.query("a dog").plan.tail == 10
    publish_index(index, memory)
    assert searcher.query("a dog").plan.tail == 10  # it is not asked at every query
    monkeypatch.setattr("llm2clip_search.engine.served.READ_AGAIN_S", -1.0)
    assert searcher.query("a dog").plan.tail == 0
    assert found(searcher.query("a dog")) == expected


@pytest.mark.parametrize("kind", ["edge", "lance"])
def test_threads_may_search_together(kind: str, index: Path, tmp_path: Path) -> None:
    engine = engine_of(kind, tmp_path)
    publish_index(index, engine)
    searcher = alone(engine)
    captions = [f"caption {number}" for number in range(24)]
    where = "width > 650"
    expected = [found(searcher.query(caption, where=where)) for caption in captions]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda caption: found(searcher.query(caption, where=where)), captions))
    assert answers == expected
    engine.close()


def test_deleted_rows_do_not_use_up_the_candidates(index: Path, memory: ServingEngine) -> None:
    publish_index(index, memory)
    best = local(index).query("a dog", k=120).hits
    commit(index.parent, [], removed=[hit.id for hit in best])
    for k in (5, 100):
        assert found(beside(index, memory).query("a dog", k=k)) == found(local(index).query("a dog", k=k))


def test_an_interrupted_publish_is_searched_correctly(index: Path, memory: ServingEngine) -> None:
    publish_index(index, memory)
    state = memory.state()
    assert state is not None
    first = min(state.shards)
    memory.delete(np.arange(200, 240))
    memory.write_state(replace(state, is_complete=False, shards={first: state.shards[first]}))
    reference, searcher = local(index), beside(index, memory)
    for options in QUERIES[:8]:
        assert found(searcher.query("a dog", **options)) == found(reference.query("a dog", **options)), options


def test_paths_of_an_index_that_was_moved_are_evaluated_here(
    index: Path, memory: ServingEngine, tmp_path: Path
) -> None:
    publish_index(index, memory)
    moved = index.parent.rename(tmp_path / "elsewhere") / ".llm2clip"
    where = f"starts_with(path, '{tmp_path}/elsewhere/2012')"
    result = beside(moved, memory).query("a dog", where=where)
    assert found(result) == found(local(moved).query("a dog", where=where))
    assert result.hits
    assert f"start from {tmp_path}/photos" in result.plan.reason


def test_images_and_texts_are_told_apart(tmp_path: Path, engine: ServingEngine) -> None:
    index = tmp_path / "mixed" / ".llm2clip"
    index.parent.mkdir()
    with Writer.open(index, model=MODEL, dim=DIM) as writer:
        writer.commit(rows_of(range(40)), vectors_of(range(40)), source=SourceEntry(uri="."))
        texts = rows_of(range(40, 60), modality="text", text="a passage", width=None)
        writer.commit(texts, vectors_of(range(40, 60)), source=SourceEntry(uri="t", modality="text"))
    publish_index(index, engine)
    searchers = [beside(index, engine), alone(engine)]
    reference = local(index)
    asked: list[dict[str, Any]] = [{}, {"find": "texts"}, {"find": "texts", "where": "rating > 2"}, {"find": "images"}]
    for options in asked:
        expected = found(reference.query("a dog", **options))
        assert expected
        for searcher in searchers:
            assert found(searcher.query("a dog", **options)) == expected


def test_what_needs_the_index_says_so(index: Path, memory: ServingEngine) -> None:
    publish_index(index, memory)
    searcher: Searcher = alone(memory)
    for ask in (
        searcher.browse,
        searcher.facets,
        searcher.places,
        lambda: searcher.parts[0].indexed,
        lambda: searcher.parts[0].beside([]),
        lambda: next(searcher.parts[0].snapshot.blocks()),
    ):
        with pytest.raises(EngineError, match="needs the index itself") as raised:
            ask()
        assert "--index" in raised.value.hint
    with pytest.raises(QueryError, match="The index has no image with id 999"):
        searcher.query(like=999)
    with pytest.raises(StoreError, match="holds no id 999"):
        searcher.parts[0].snapshot.vectors([1, 999])
    with pytest.raises(StoreError, match="holds no id 999"):
        ServedRows(memory).rows([1, 999])


def test_an_engine_without_a_publish_or_of_another_index_is_refused(
    index: Path, memory: ServingEngine, tmp_path: Path
) -> None:
    for ask in (lambda: beside(index, memory), lambda: alone(memory)):
        with pytest.raises(EngineError, match="does not exist"):
            ask()
    publish_index(index, memory)
    other = commit(tmp_path / "other", range(3))
    with pytest.raises(EngineError, match="holds another index"):
        beside(other, memory)
    with pytest.raises(EngineError, match=r"was made by colours:16 .*, not by colours:8"):
        open_index(encoder=ColourEncoder(8), engine=memory)
    with pytest.raises(QueryError, match="An engine holds one index, but 2 are named"):
        open_index([index, other], encoder=ColourEncoder(), engine=memory)


def test_copies_open_the_engine_again(index: Path, tmp_path: Path) -> None:
    url = f"lance:{tmp_path / 'l'}"
    publish_index(index, url)
    with_index = open_index(index, encoder=ColourEncoder(), engine=url)
    without = open_index(encoder=ColourEncoder(), engine=url)
    for searcher in (with_index, without):
        copy = pickle.loads(pickle.dumps(searcher))
        assert found(copy.query("a dog")) == found(searcher.query("a dog"))
        assert copy.query("a dog").plan.device == "engine"


def point(share: float, effort: int | None, recall: float, ms: float = 1.0) -> ServingPoint:
    return ServingPoint(share=share, effort=effort, recall=recall, milliseconds=ms, p95_ms=2.0)


POINTS = (point(1.0, 32, 0.9), point(1.0, 64, 0.97), point(0.1, 32, 0.8), point(0.1, 128, 0.96), point(0.01, 32, 1.0))


@pytest.mark.parametrize(
    ("share", "recall", "effort"),
    [
        (1.0, 0.95, 64),
        (1.0, 0.9, 32),
        (0.5, 0.95, 128),  # between all and a tenth, both of which have to be good enough
        (0.1, 0.95, 128),
        (0.05, 0.95, 128),
        (0.001, 0.95, 32),
        (1.0, 0.99, None),
        (0.05, 0.97, None),
    ],
)
def test_the_least_effort_that_is_good_enough_is_chosen(share: float, recall: float, effort: int | None) -> None:
    chosen = choose_serving_point(POINTS, share=share, recall=recall)
    assert (None if chosen is None else chosen.effort) == effort


def test_a_share_beside_a_measured_one_takes_the_effort_of_the_next_as_well() -> None:
    """Measured at a tenth, all rows may have been compared; a little more or less is searched by the graph."""
    points = [
        ServingPoint(share=share, effort=effort, recall=1.0, milliseconds=1.0, p95_ms=1.0)
        for share, effort in ((1.0, 512), (0.1, 32), (0.01, 16))
    ]
    wanted = {0.19: 512, 0.1: 512, 0.0999: 512, 0.03: 32, 0.01: 32, 0.001: 16}
    chosen = {share: choose_serving_point(points, share=share, recall=0.95) for share in wanted}
    assert {share: point.effort for share, point in chosen.items() if point is not None} == wanted


def test_rows_of_a_filter_are_compared_where_a_graph_finds_too_few() -> None:
    points = [point(1.0, 64, 0.97), point(0.1, 64, 0.99), point(0.1, None, 1.0, 0.5), point(0.01, 64, 0.6)]
    points += [point(0.01, None, 1.0, 4.0), point(0.001, 64, 0.99, 2.0), point(0.001, None, 1.0, 1.0)]
    wanted = {1.0: 64, 0.5: 64, 0.09: 64, 0.07: None, 0.02: None, 0.01: None, 0.001: None}
    chosen = {share: choose_serving_point(points, share=share, recall=0.95) for share in wanted}
    assert {share: point.effort for share, point in chosen.items() if point is not None} == wanted


def test_rows_of_a_filter_are_compared_by_the_engine_or_here_whichever_takes_less_time() -> None:
    points = (point(1.0, 64, 0.97), point(0.01, 64, 0.6), point(0.01, None, 1.0, 4.0))

    def plan(*, exact_ms: float, is_at_hand: bool = True, matches: int = 10_000) -> SearchPlan:
        measured = Measured(queries="captions", exact_ms=exact_ms, points=points)
        facts = EngineFacts(
            name="qdrant:x", measured=measured, rows=1_000_000, most_ids=100, ms_per_id=0.001, is_at_hand=is_at_hand
        )
        return plan_engine(facts, matches=matches, k=10, recall=0.95, slack=3)

    there = plan(exact_ms=5.0)
    assert (there.strategy, there.device, there.effort, there.candidates) == ("exact over matches", "engine", 0, 13)
    assert "the filter leaves 10,000 of 1,000,000 rows; qdrant:x compares them in about 4.0 ms" in there.reason
    here = plan(exact_ms=3.0)
    assert (here.strategy, here.device) == ("exact over matches", "cpu")
    assert "comparing all rows takes about 3.0 ms, these in qdrant:x 4.0 ms" in here.reason
    assert plan(exact_ms=3.0, is_at_hand=False).device == "engine"
    assert plan(exact_ms=5.0, matches=20_000).device == "cpu"
    assert "in about 8.0 ms" in plan(exact_ms=9.0, matches=20_000).reason


def test_a_plan_says_why_rows_are_compared_exactly() -> None:
    measured = Measured(queries="captions", exact_ms=10.0, points=POINTS)
    facts = EngineFacts(name="qdrant:x", measured=measured, rows=1000, most_ids=100, ms_per_id=0.001, is_at_hand=True)

    def reason(**options: Any) -> str:
        given: dict[str, Any] = {"matches": None, "k": 10, "recall": 0.95, **options}
        return plan_engine(facts, **given).reason

    assert "no measured effort of qdrant:x finds 99.0% of the best 10" in reason(recall=0.99)
    assert "all of the best results are wanted" in reason(recall=1.0)
    deep = plan_engine(facts, matches=None, k=100, recall=0.95)
    assert (deep.effort, deep.candidates) == (640, 100)
    unknown = EngineFacts(name="qdrant:x", measured=None, rows=1000, most_ids=100, ms_per_id=0.001, is_at_hand=False)
    plan = plan_engine(unknown, matches=None, k=10, recall=0.95)
    assert (plan.strategy, plan.device) == ("exact", "engine")
    assert "no publish to it has ended" in plan.reason
    assert plan_engine(unknown, matches=0, k=10, recall=0.95).strategy == "nothing"
