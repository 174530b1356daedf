"""Queries over several indices, of several captions and images, and in batches, against brute force."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search import open_index
from llm2clip_search.engine import Hit, Searcher, SearchIndex, SearchIndices
from llm2clip_search.engine.query import compose_query, compose_terms
from llm2clip_search.engine.selection import FUSED_POOL
from llm2clip_search.errors import ImageError, QueryError, StoreError
from llm2clip_search.indexers import index_folder
from llm2clip_search.store import Row, Snapshot, Writer
from tests.support.encoders import ColourEncoder
from tests.support.several import index_of, stored, together
from tests.support.vectors import DIM, clustered

CAPTIONS = ["dusk", "a red wall", "noon"]


def unit(vector: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vector / np.linalg.norm(vector)
    return scaled


def named(searcher: Searcher, hits: Sequence[Hit]) -> list[tuple[int, int]]:
    """(index, id) of hits."""
    folders = [str(part.snapshot.folder) for part in searcher.parts]
    return [(folders.index(hit.index) if hit.index else 0, hit.id) for hit in hits]


def expected(searcher: Searcher, captions: Sequence[str], fuse: str) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Every row in its order, and its cosine, by comparing everything with everything."""
    names, vectors = stored(searcher)
    queries = searcher.encoder.encode_texts(captions).astype(np.float64)
    if fuse == "mean":
        queries = unit(queries.mean(axis=0))[None, :]
    cosines = (vectors @ queries.T).astype(np.float32)
    best = cosines.max(axis=1)
    rows = np.arange(len(names))
    if fuse == "rank":
        fused = np.zeros(len(names))
        for column in cosines.T:
            fused[np.lexsort((rows, -column))] += 1 / (61 + rows)
        order = np.lexsort((rows, -best, -fused))
    else:
        order = np.lexsort((rows, -best))
    return [names[row] for row in order], best[order]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 25), min_size=1, max_size=3), min_size=1, max_size=3),
    captions=st.integers(1, 3),
    fuse=st.sampled_from(["mean", "max", "rank"]),
    page=st.tuples(st.integers(1, 12), st.integers(0, 30)),
    seed=st.integers(0, 1000),
)
def test_any_indices_and_captions_are_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    captions: int,
    fuse: Any,
    page: tuple[int, int],
    seed: int,
) -> None:
    """Copies occur in several shards and indices: equal scores by the order of indices, then by id."""
    folder = tmp_path_factory.mktemp("several")
    generator = np.random.default_rng(seed)
    points = clustered(seed, 20)
    shards = [[points[generator.integers(0, 20, rows)] for rows in parts] for parts in sizes]
    searcher = together([index_of(folder / str(number), *parts) for number, parts in enumerate(shards)])
    k, offset = page
    names, cosines = expected(searcher, CAPTIONS[:captions], fuse)
    hits = searcher.query(CAPTIONS[:captions], fuse=fuse, k=k, offset=offset).hits
    assert named(searcher, hits) == names[offset : offset + k]
    assert [hit.rank for hit in hits] == list(range(offset + 1, offset + 1 + len(hits)))
    np.testing.assert_allclose([hit.score for hit in hits], cosines[offset : offset + k], atol=1e-6)
    threshold = float(cosines[len(cosines) // 2])
    kept = [name for name, cosine in zip(names, cosines, strict=True) if cosine >= threshold - 1e-9]
    cut = searcher.query(CAPTIONS[:captions], fuse=fuse, k=100, threshold=threshold - 1e-7).hits
    assert named(searcher, cut)[: len(kept)] == kept[:100]


def test_rank_fusion_beyond_its_pool_goes_on_by_cosine(tmp_path: Path) -> None:
    """Pages of any size are parts of one ranking, without a row twice or missing."""
    index = index_of(tmp_path, clustered(1, 900), clustered(2, 900))
    whole = [hit.id for hit in index.query(CAPTIONS, fuse="rank", k=2000).hits]
    assert sorted(whole) == list(range(1800))
    pages = [
        hit.id
        for offset in range(0, 1800, 300)
        for hit in index.query(CAPTIONS, fuse="rank", k=300, offset=offset).hits
    ]
    assert pages == whole
    top = [{hit.id for hit in index.query(caption, k=FUSED_POOL).hits} for caption in CAPTIONS]
    pool = set().union(*top)
    assert set(whole[: len(pool)]) == pool
    tail = index.query(CAPTIONS, fuse="rank", k=2000, offset=len(pool)).hits
    assert [hit.score for hit in tail] == sorted((hit.score for hit in tail), reverse=True)


def test_images_to_be_like_and_unlike(photographs: Path, colours: ColourEncoder) -> None:
    """Ids, files and weights in any number, with captions added and subtracted, against the sum itself."""
    folder = photographs.parent / ".llm2clip"
    index_folder(photographs, encoder=colours, index=folder)
    index = SearchIndex(Snapshot(folder), colours)
    files = [photographs / "2023" / "photo-00.png", photographs / "2024" / "photo-03.png"]
    encoded = colours.encode_images(files)
    dusk, rain = colours.encode_texts(["dusk", "rain"])
    vectors = np.stack([unit(vector) for vector in index.snapshot.vectors([1, 5])])
    total = vectors[0] + 0.5 * encoded[0] - 0.25 * vectors[1] - encoded[1] + encoded[1] + 2 * dusk - rain
    names, everything = stored(index)
    order = np.argsort(-(everything @ unit(total)), kind="stable")
    result = index.query(
        "dusk",
        like=[1, f"{files[0]}^0.5"],
        unlike=["5^0.25", files[1]],
        image=files[1:],
        add=["dusk"],
        sub=["rain"],
        k=100,
    )
    assert [hit.id for hit in result.hits] == [names[row][1] for row in order]
    assert index.query(like=files[0], k=1).hits[0].path == files[0]
    assert index.query(like="3", k=1).hits[0].id == index.query(like=3, k=1).hits[0].id == 3
    away = index.query(like=[1, 2], unlike="3^0.5", k=12).hits
    assert away[0].id in (1, 2)


def test_terms_join_each_caption(tmp_path: Path) -> None:
    index = index_of(tmp_path, clustered(3, 50))
    dusk, noon, rain = index.encoder.encode_texts(["dusk", "noon", "rain"])
    like = unit(index.snapshot.vectors([7])[0])
    queries = [unit(caption - 0.5 * rain + like) for caption in (dusk, noon)]
    cosines = np.max(index.snapshot.vectors(list(range(50))) @ np.stack(queries).T, axis=1)
    hits = index.query(["dusk", "noon"], fuse="max", like=7, sub=["rain^0.5"], k=50).hits
    assert [hit.id for hit in hits] == np.argsort(-cosines, kind="stable").tolist()
    assert hits[0].score == pytest.approx(float(cosines.max()), abs=1e-5)


def test_words_that_end_in_a_weight_and_ids() -> None:
    terms = compose_terms(like=[4, "11^0.5", "12@2", "12@2.jpg", Path("7"), "./7"], unlike="x.png^2")
    assert [(term.kind, term.value, term.weight) for term in terms] == [
        ("like", "4", 1.0),
        ("like", "11", 0.5),
        ("like", "12@2", 1.0),
        ("image", "12@2.jpg", 1.0),
        ("image", "7", 1.0),
        ("image", "./7", 1.0),
        ("image", "x.png", -2.0),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unlike": 3}, "images to be unlike, but nothing to search for"),
        ({"unlike": [3, 4], "sub": ["a"]}, "nothing to change"),
        ({"text": ["a", "b"]}, "There are 2 captions, but nothing says how to combine them"),
        ({"text": ["a", " "], "fuse": "max"}, "query is empty"),
        ({"text": []}, "query is empty"),
        ({"text": ["a", "b"], "fuse": "median"}, "by mean, max, rank, not by 'median'"),
        ({"text": "a", "group_duplicates": 1.5}, "cosine of duplicates is 1.5"),
        ({"text": "a", "group_duplicates": 0.0}, "cosine of duplicates is 0.0"),
        ({"like": "3@2"}, "3@2 is an image of index 2, but 1 are searched"),
        ({"like": "3@0"}, "3@0 is an image of index 0"),
        ({"like": "99999999999999999999@1"}, "Index 1 has no image with id 9+"),
        ({"unlike": "3^0", "text": "a"}, "weight of '3' is -0.0"),
        ({"text": ["a", "b"], "fuse": "rank", "sub": ["b"]}, "cancel each other"),
    ],
)
def test_combinations_that_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    index = index_of(tmp_path, clustered(4, 5))
    with pytest.raises(QueryError, match=message):
        index.query(**arguments)
    with pytest.raises(ImageError, match="nowhere"):
        index.query(like="nowhere")


def test_an_id_of_several_indices_is_named_with_its_index(tmp_path: Path) -> None:
    first = index_of(tmp_path / "a", clustered(5, 10))
    second = index_of(tmp_path / "b", clustered(6, 20))
    both = SearchIndices([first, second], first.encoder)
    assert len(both) == 30
    with pytest.raises(QueryError, match=r"The id 3 occurs in .*a \(3@1\) and .*b \(3@2\)") as caught:
        both.query(like=3)
    assert "Write 3@1" in caught.value.hint
    with pytest.raises(QueryError, match="None of the indices has an image with id 20"):
        both.query(like=20)
    assert named(both, both.query(like=15, k=1).hits) == [(1, 15)]  # only the second holds it
    assert named(both, both.query(like="3@1", k=1).hits) == [(0, 3)]
    hit = both.query(like="3@2", k=1).hits[0]
    assert hit.to_dict()["index"] == str(tmp_path / "b")
    assert hit.uri == str(tmp_path / "3.jpg")


def test_filters_apply_to_each_index(tmp_path: Path) -> None:
    both = together([index_of(tmp_path / name, clustered(seed, 30)) for seed, name in enumerate("ab")])
    result = both.query("dusk", where="id % 3 = 0", k=100)
    assert len(result.hits) == 20
    assert all(hit.id % 3 == 0 for hit in result.hits)
    assert [plan.matches for plan in result.plans] == [10, 10]
    names, _ = expected(both, ["dusk"], "max")
    assert named(both, result.hits) == [name for name in names if name[1] % 3 == 0]


def test_indices_that_cannot_be_searched_together(tmp_path: Path, colours: ColourEncoder) -> None:
    index_of(tmp_path / "a", clustered(5, 10))
    other = ColourEncoder(dim=8)
    index_of(tmp_path / "b", clustered(6, 10)[:, :8], encoder=other)
    with pytest.raises(StoreError, match=r"/a was made by colours:16 .*, but .*/b by colours:8"):
        open_index([tmp_path / "a", tmp_path / "b"], encoder=colours)
    with pytest.raises(StoreError, match="/a is named twice"):
        open_index([tmp_path / "a", f"{tmp_path}/b/../a"], encoder=colours)
    with pytest.raises(StoreError, match="No index is named"):
        open_index([], encoder=colours)
    assert isinstance(open_index([tmp_path / "a"], encoder=colours), SearchIndex)


@pytest.mark.parametrize(
    "options",
    [
        {"k": 4, "offset": 2},
        {"where": "id < 20", "like": 3, "sub": ["rain^0.5"]},
        {"k": 5, "group_duplicates": 0.9},
        {"k": 5, "diverse": True, "threshold": 0.1},
    ],
)
@pytest.mark.parametrize("indices", [1, 2])
def test_a_batch_answers_as_each_caption_alone(tmp_path: Path, options: dict[str, Any], indices: int) -> None:
    """Bit for bit, over more captions than one batch holds."""
    sizes = [60, 3]
    searcher = together([index_of(tmp_path / str(n), clustered(n, sizes[n])) for n in range(indices)])
    captions = [f"caption {number}" for number in range(70)]
    answers = list(searcher.query_batch(iter(captions), **options))
    assert len(answers) == 70
    for caption, answer in zip(captions, answers, strict=True):
        assert answer.hits == searcher.query(caption, **options).hits


@pytest.mark.parametrize("where", [None, "1 = 0"])
def test_nothing_is_found_in_nothing(tmp_path: Path, where: str | None) -> None:
    empty = [index_of(tmp_path / name, np.empty((0, 16), dtype=np.float32)) for name in "ab"]
    for searcher in (empty[0], together(empty)):
        for options in ({"fuse": "max"}, {"fuse": "rank"}, {"fuse": "mean", "diverse": True, "group_duplicates": 0.9}):
            result = searcher.query(CAPTIONS, where=where, **options)
            assert result.hits == []
            assert {plan.strategy for plan in result.plans} == {"nothing"}


def test_a_batch_is_read_as_it_is_answered(tmp_path: Path) -> None:
    index = index_of(tmp_path, clustered(4, 5))
    read: list[int] = []

    def captions() -> Any:
        for number in range(1000):
            read.append(number)
            yield "word " * (40 if number == 1 else 1)

    answers = index.query_batch(captions())
    assert next(answers).warnings == []
    assert len(read) < 100
    (warning,) = next(answers).warnings
    assert "reads 24" in warning
    with pytest.raises(QueryError, match="k is 0"):
        next(index.query_batch([], k=0))
    with pytest.raises(QueryError, match="query is empty"):
        list(index.query_batch(["a", ""]))


def test_the_caption_that_is_cut_is_named(tmp_path: Path) -> None:
    index = index_of(tmp_path, clustered(4, 5))
    (warning,) = index.query(["short", "many words " * 20], fuse="max").warnings
    assert warning.startswith("The caption 'many words many words")


def test_a_query_keeps_its_terms_and_alternatives_apart() -> None:
    query = compose_query(["a", "b"], add=["c"], fuse="max")
    assert [[term.value for term in terms] for terms in query.compositions] == [["a", "c"], ["b", "c"]]
    assert [[term.value for term in terms] for terms in compose_query(["a"], add=["c"]).compositions] == [["a", "c"]]


def test_a_column_that_an_index_lacks_is_null_in_its_rows(tmp_path: Path) -> None:
    encoder, indices = ColourEncoder(), list[SearchIndex]()
    for name, columns in (("without", None), ("with", pa.table({"Price": pa.array([1, 2, None])}))):
        with Writer.open(tmp_path / name, model=encoder.identity, dim=DIM) as writer:
            rows = [Row(id=n, path=f"{n}.jpg", content_hash="", size=0, mtime_ns=0, width=1 + n) for n in range(3)]
            writer.commit(rows, clustered(1, 3), columns=columns)
        indices.append(SearchIndex(Snapshot(tmp_path / name), encoder))
    both = SearchIndices(indices, encoder)
    for searcher in (both, pickle.loads(pickle.dumps(both))):
        for where, count in {
            "price > 1": 1,
            "NOT price > 1": 1,
            "price IS NULL": 4,
            "images.price IS NULL AND width < 3": 2,
            "coalesce(price, 7) = 7 OR width = 1": 5,
        }.items():
            assert searcher.count(where) == count, where
        with pytest.raises(
            QueryError, match=r"column 'prize' that does not exist; the columns are .*, Price, and text"
        ):
            searcher.count("prize > 1")
        assert searcher.count_without(["price > 1", "width = 2"]) == [2, 1]
    with pytest.raises(QueryError, match="price"):  # by itself it has no such column
        indices[0].count("price > 1")
