"""Queries against brute force: composition, filters, paging, and what is refused."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.engine import SearchIndex, open_index
from llm2clip_search.engine.filter import Filter
from llm2clip_search.engine.plan import plan_search
from llm2clip_search.engine.query import compose_query, compose_terms
from llm2clip_search.errors import ImageError, ModelError, QueryError, StoreError
from llm2clip_search.indexers import index_folder
from llm2clip_search.store import AnnEntry, Snapshot, Writer
from llm2clip_search.vectorindex.exact import exact_search
from llm2clip_search.vectorindex.operating import OperatingPoint
from tests.support.encoders import ColourEncoder
from tests.support.models import save_model
from tests.support.vectors import DIM, MODEL, add, clustered


@pytest.fixture
def index(photographs: Path, colours: ColourEncoder) -> SearchIndex:
    folder = photographs.parent / ".llm2clip"
    index_folder(photographs, encoder=colours, index=folder)
    return SearchIndex(Snapshot(folder), colours)


def brute_force(index: SearchIndex, vector: np.ndarray) -> list[int]:
    ids = index.snapshot.live_ids
    scores = index.snapshot.vectors(ids.tolist()) @ vector
    return [int(ids[i]) for i in np.argsort(-scores, kind="stable")]


@settings(max_examples=100, deadline=None)
@given(
    shards=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    k=st.integers(1, 60),
    levels=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_exact_search_is_brute_force(
    tmp_path_factory: pytest.TempPathFactory, shards: list[int], k: int, levels: int, seed: int
) -> None:
    """Over shards, with many equal scores (few distinct vectors), k beyond the corpus, and id subsets."""
    folder = tmp_path_factory.mktemp("exact")
    generator = np.random.default_rng(seed)
    few = np.eye(DIM, dtype=np.float32)[:levels]
    with Writer.open(folder, model=MODEL, dim=DIM) as writer:
        for count in shards:
            add(writer, few[generator.integers(0, levels, count)])
    snapshot = Snapshot(folder)
    stored = snapshot.vectors(list(range(sum(shards))))
    queries = clustered(seed, 3)
    for ids in (np.arange(len(stored)), np.flatnonzero(generator.random(len(stored)) < 0.5)):
        scores, found = exact_search(snapshot, queries, k, ids=ids)
        expected = queries @ stored[ids].T
        order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
        np.testing.assert_allclose(scores, np.take_along_axis(expected, order, 1), atol=1e-6)
        np.testing.assert_array_equal(found, ids[order])


def test_a_caption_an_image_and_an_id_agree_with_brute_force(index: SearchIndex, photographs: Path) -> None:
    encoder = index.encoder
    text = encoder.encode_texts(["dusk"])[0]
    assert [hit.id for hit in index.query("dusk", k=12).hits] == brute_force(index, text)
    path = photographs / "2024" / "photo-03.png"
    first = index.query(image=path, k=1).hits[0]
    assert (first.path, first.rank) == (path, 1)
    assert first.score == pytest.approx(1.0, abs=1e-3)
    assert index.query(like=first.id, k=1).hits[0].id == first.id
    scores, ids = index.query_texts(["dusk", "dawn"], k=3)
    assert ids[0].tolist() == brute_force(index, text)[:3]
    assert scores.shape == (2, 3)


def test_terms_are_summed_and_normalised_again(index: SearchIndex) -> None:
    result = index.query("a", like=4, add=["b^0.5"], sub=["c^2"], k=12)
    a, b, c = index.encoder.encode_texts(["a", "b", "c"])
    stored = index.snapshot.vectors([4])[0]
    total = a + stored / np.linalg.norm(stored) + 0.5 * b - 2.0 * c
    total /= np.linalg.norm(total)
    assert [hit.id for hit in result.hits] == brute_force(index, total)
    best = index.snapshot.vectors([result.hits[0].id])[0] @ total
    assert result.hits[0].score == pytest.approx(float(best), abs=1e-5)
    assert -1.0 <= result.hits[-1].score <= result.hits[0].score <= 1.0


def test_weights_end_a_term() -> None:
    terms = compose_terms(text="x^2", add=["at 10:30^0.25", "2^10 stars", "plain"])
    assert [(term.value, term.weight) for term in terms] == [
        ("x^2", 1.0),  # the caption itself is taken as it is
        ("at 10:30", 0.25),
        ("2^10 stars", 1.0),
        ("plain", 1.0),
    ]


def test_pages_and_thresholds(index: SearchIndex) -> None:
    everything = index.query("dusk", k=100).hits
    assert len(everything) == 12
    page = index.query("dusk", k=5, offset=10).hits
    assert [(hit.rank, hit.id) for hit in page] == [(hit.rank, hit.id) for hit in everything[10:]]
    limit = everything[3].score
    assert [hit.id for hit in index.query("dusk", threshold=limit, k=100).hits] == [hit.id for hit in everything[:4]]
    assert index.query("dusk", offset=12).hits == []


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("width > 84 AND path LIKE '%/2024/%'", 3),
        ("path LIKE '%/2023/%' -- a comment", 6),
        ("id IN (1, 2, 3)", 3),
        ("taken IS NULL AND camera IS NULL AND latitude IS NULL AND longitude IS NULL", 12),
        ("mtime > '2020-01-01' AND size > 10 AND height = 48 AND format = 'PNG' AND length(content_hash) = 32", 12),
        ("1 = 0", 0),
        ("NULL", 0),
    ],
)
def test_conditions_come_before_the_search(index: SearchIndex, where: str, count: int) -> None:
    result = index.query("dusk", where=where, k=100)
    assert len(result.hits) == result.plan.matches == count
    ids = Filter(index.snapshot).ids(where)
    order = [i for i in brute_force(index, index.encoder.encode_texts(["dusk"])[0]) if i in ids]
    assert [hit.id for hit in result.hits] == order


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("wdith > 3", "'wdith' that does not exist; the columns are id, path"),
        ("width >", "not a valid condition"),
        ("", "The condition is empty"),
        ("1=1); SELECT 1; SELECT (1", "one condition; several"),
        ("1=1) UNION SELECT 7 FROM read_csv('/etc/passwd') WHERE (1=1", "one condition; several"),
        ("1=1) UNION SELECT 'x' WHERE (1=1", "one condition; several"),
        ("1=1) LIMIT (1", "one condition; several"),
        ("1=1) FROM range(5", "not a valid condition"),
        ("1=1), (1=1", "not a valid condition"),
        ("width > ?", "one condition; several"),
        ("mtime > 'yesterday'", "is not a date"),
        ("width > 1 \udcff", "not a valid condition"),
        ("id IN (SELECT 1 FROM read_text('/etc/passwd'))", "cannot contain a subquery"),
        ("id IN (SELECT id FROM '/etc/passwd')", "cannot contain a subquery"),
        ("id IN (SELECT 1 FROM query('COPY images TO ''/tmp/x'''))", "cannot contain a subquery"),
        ("id = (SELECT id FROM snapshot)", "cannot contain a subquery"),
        ("1=1); ATTACH '/tmp/x.db'; --", "one condition; several|not a valid"),
        ("1=1); SET lock_configuration=false; --", "one condition; several|not a valid"),
        ("path", "not a valid condition"),
    ],
)
def test_conditions_that_are_refused(index: SearchIndex, where: str, message: str) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        index.query("dusk", where=where)
    assert "\n" not in str(caught.value)


def test_queries_that_are_refused(index: SearchIndex, tmp_path: Path) -> None:
    for arguments, message in (
        ({}, "query is empty"),
        ({"text": "  "}, "query is empty"),
        ({"text": "a \udcff dog"}, "not valid UTF-8"),
        ({"like": 10**30}, "no image with id 10+"),
        ({"like": 99}, "no image with id 99"),
        ({"text": "a", "k": 0}, "k is 0"),
        ({"text": "a", "offset": -1}, "offset is -1"),
        ({"text": "a", "threshold": 3.0}, r"threshold is 3\.0"),
        ({"text": "a", "sub": ["a"]}, "cancel each other"),
        ({"text": "a", "add": ["b^0"]}, "must be a finite number other than 0"),
        ({"add": ["b"]}, "nothing to change"),
    ):
        with pytest.raises(QueryError, match=message):
            index.query(**arguments)
    (tmp_path / "x.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"x\.jpg: not an image"):
        index.query(image=tmp_path / "x.jpg")
    with pytest.raises(QueryError, match=r"\[1, 3\], but the index is 16 wide"):
        index.search(np.zeros((1, 3), dtype=np.float32))


def test_a_deleted_image_is_no_example(index: SearchIndex, photographs: Path) -> None:
    gone = index.query(image=photographs / "2024" / "photo-03.png", k=1).hits[0].id
    (photographs / "2024" / "photo-03.png").unlink()
    assert isinstance(index.encoder, ColourEncoder)
    index_folder(photographs, encoder=index.encoder, index=index.snapshot.folder)
    later = SearchIndex(Snapshot(index.snapshot.folder), index.encoder)
    with pytest.raises(QueryError, match=f"no image with id {gone}"):
        later.query(like=gone)
    assert gone not in [hit.id for hit in later.query("dusk", k=100).hits]


def test_a_cut_caption_is_told_with_both_counts(index: SearchIndex) -> None:
    caption = "many words " * 40
    (count,) = index.encoder.count_tokens([caption])
    (warning,) = index.query(caption).warnings
    assert f"{count} tokens" in warning
    assert f"reads 24; the last {count - 24} are not read" in warning
    assert index.query("short").warnings == []


def test_another_model_is_refused_with_both_names(index: SearchIndex, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=1)
    with pytest.raises(StoreError, match=r"was made by colours:16 .* not by dir:.*other"):
        open_index(index.snapshot.folder, model=f"dir:{other}")


def test_an_index_is_opened_for_captions(photographs: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The answers are the same, and so is what is wrong."""
    name, folder = f"dir:{tiny_model}", tmp_path / "index"
    index_folder(photographs, encoder=name, index=folder)
    opened = open_index(folder, keep_captions=True, captions=["a\u200b dog", ""])
    found, wanted = (each.query("a dog").hits for each in (opened, open_index(folder)))
    assert [hit.to_dict() for hit in found] == [hit.to_dict() for hit in wanted]
    with pytest.raises(QueryError, match="empty"):
        opened.query("")
    with pytest.raises(StoreError, match="holds no index"):
        open_index(tmp_path / "nowhere", captions=["a dog"])
    other = f"dir:{save_model(tmp_path / 'other', seed=7)}"
    with pytest.raises(StoreError, match="was made by"):
        open_index(folder, model=other, captions=["a dog"])
    with pytest.raises(ModelError, match="names no model"):
        open_index(folder, model="nothing:here", captions=["a dog"])


def test_hits_are_json(index: SearchIndex) -> None:
    hit = index.query("dusk", k=1).hits[0]
    keys = ["rank", "id", "score", "path", "content_hash", "size", "mtime_ns", "width", "height", "format"]
    keys += ["taken", "camera", "latitude", "longitude", "damage"]
    keys += ["modality", "text", "caption", "rating", "keywords", "part", "exists"]
    assert list(json.loads(json.dumps(hit.to_dict()))) == keys


def measured(factory: str, rows: int) -> AnnEntry:
    """An index of a million rows as it might have been measured; comparing all takes 50 ms."""
    points = tuple(
        OperatingPoint(depth=depth, effort=effort, candidates=5 * depth, recall=recall, milliseconds=milliseconds)
        for depth, effort, recall, milliseconds in (
            (10, 16, 0.96, 1.0),
            (10, 64, 0.995, 2.0),
            (100, 64, 0.96, 4.0),
            (1000, 256, 0.96, 16.0),
        )
    )
    return AnnEntry(
        factory=factory,
        rows=rows,
        trained_on=rows,
        shards=("000001",),
        queries="captions",
        exact_ms=50.0,
        filtered_ms=5.0,
        points=points,
    )


@pytest.mark.parametrize(
    ("rows", "matches", "k", "factory", "gpu", "strategy", "device"),
    [
        (0, None, 10, None, False, "nothing", "cpu"),
        (10, 0, 10, None, True, "nothing", "cpu"),
        (10, None, 9999, None, False, "exact", "cpu"),
        (10, None, 9999, None, True, "exact", "gpu"),
        (9999, None, 2016, None, True, "exact", "gpu"),
        (9999, None, 2017, None, True, "exact", "cpu"),  # without a candidate more for each near tie
        (10, 4, 10, None, True, "exact over matches", "cpu"),
        (10**6, None, 100, "IVF8,SQfp16", True, "approximate", "gpu"),
        (10**6, None, 1000, "IVF8,SQfp16", True, "approximate", "cpu"),
        (10**6, None, 1001, "IVF8,SQfp16", True, "exact", "gpu"),
        (10**6, 10**5, 101, "IVF8,SQfp16", True, "exact over matches", "cpu"),
        (10**6, None, 10, "IDMap2,HNSW32,SQfp16", True, "approximate", "cpu"),
        (10**6, None, 10, "RR,IVF8,RaBitQ2", True, "approximate", "cpu"),
        (10**6, 150_000, 15, "IVF8,SQfp16", True, "exact over matches", "cpu"),  # 8 ms, a search 100 deep as much
        (10**6, 170_000, 17, "IVF8,SQfp16", True, "approximate over matches", "cpu"),
        (10**6, 170_000, 17, "IDMap2,HNSW32,SQfp16", True, "exact over matches", "cpu"),
        (10**6, 10_000, 10, "IVF8,SQfp16", False, "exact over matches", "cpu"),
        (10**6, 990_000, 9, "IVF8,SQfp16", True, "approximate over matches", "cpu"),
    ],
)
def test_the_plan(
    rows: int, matches: int | None, k: int, factory: str | None, gpu: bool, strategy: str, device: str
) -> None:
    """The lowest measured cost is chosen. A filter never goes to the GPU: its classic indices would ignore it."""
    ann = measured(factory, rows) if factory else None
    plan = plan_search(rows=rows, matches=matches, k=k, ann=ann, recall=0.95, gpu=gpu)
    assert (plan.strategy, plan.device) == (strategy, device)
    assert plan.to_dict()["matches"] == (rows if matches is None else matches)


def test_a_plan_reaches_the_recall_that_is_asked_for() -> None:
    ann = measured("IVF8,SQfp16", 10**6)
    plans = {
        recall: plan_search(rows=10**6, matches=None, k=10, ann=ann, recall=recall)
        for recall in (0.9, 0.99, 0.999, 1.0)
    }
    assert [plan.point.effort if plan.point else None for plan in plans.values()] == [16, 64, None, None]
    assert "no measured effort of IVF8,SQfp16 finds 99.9% of the best 10" in plans[0.999].reason
    assert "all of the best results are wanted" in plans[1.0].reason
    deep = plan_search(rows=10**6, matches=1000, k=10, ann=ann, recall=0.9)
    assert "was measured for 1,000 neighbours, not for the best 10,000" in deep.reason
    tail = plan_search(rows=10**6, matches=None, k=10, ann=ann, recall=0.9, tail=10**6)
    assert tail.strategy == "exact"  # most rows are compared anyway
    shared = plan_search(rows=10**6, matches=4 * 10**5, k=40, ann=ann, recall=0.9)
    assert (shared.point and shared.point.depth, shared.effort, shared.candidates) == (100, 128, 500)
    shared = plan_search(rows=10**6, matches=4 * 10**5, k=5, ann=ann, recall=0.9)
    assert (shared.point and shared.point.depth, shared.candidates) == (100, 200)  # the share of the deeper search's


@pytest.mark.parametrize("recall", [0.0, 1.5, float("nan")])
def test_a_recall_that_cannot_be_is_refused(index: SearchIndex, recall: float) -> None:
    with pytest.raises(QueryError, match=f"The recall is {recall}; it must be above 0 and at most 1"):
        index.query("dusk", recall=recall)


def test_pages_of_a_ranking_are_pages_of_the_query(index: SearchIndex) -> None:
    query = compose_query("red", k=6)
    ranked = index.rank(query)
    assert (len(ranked), ranked.matches) == (min(6, len(index)), len(index))
    for offset in range(6):
        page, asked = index.page(ranked, offset=offset, k=2), index.query("red", k=2, offset=offset)
        expected = [hit for hit in asked.hits if hit.rank <= len(ranked)]
        assert [(hit.rank, hit.id, hit.score) for hit in page.hits] == [(e.rank, e.id, e.score) for e in expected]


def test_an_index_that_nobody_uses_lets_its_files_go_at_once(index: SearchIndex, colours: ColourEncoder) -> None:
    """Without the garbage collector: a server opens a new snapshot after every commit."""
    opened = SearchIndex(Snapshot(index.snapshot.folder), colours)
    opened.query("red", where="width > 0")
    snapshot = weakref.ref(opened.snapshot)
    gc.disable()
    try:
        del opened
        assert snapshot() is None
    finally:
        gc.enable()
