"""The results of a page in another order, and files of the same content shown once, against plain Python."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.engine import Hit, Searcher, SearchIndex
from llm2clip_search.engine.results import in_order_of
from llm2clip_search.errors import QueryError
from llm2clip_search.store import Row, Snapshot, Writer
from tests.support.encoders import ColourEncoder
from tests.support.several import together
from tests.support.vectors import clustered


def hits(values: list[Any]) -> list[Hit]:
    return [Hit(rank=n, id=n, score=0.5, uri=f"/{n}", metadata={"x": value}) for n, value in enumerate(values, start=1)]


@given(st.lists(st.none() | st.integers(-3, 3)), st.booleans())
def test_order_of_a_column(values: list[int | None], descending: bool) -> None:
    """Missing values last in either order, equal ones by rank."""
    found = [hit.rank for hit in in_order_of(hits(values), "-x" if descending else "x")]
    ranks = range(1, len(values) + 1)
    known = [rank for rank in ranks if values[rank - 1] is not None]
    sign = -1 if descending else 1
    expected = sorted(known, key=lambda rank: (sign * (values[rank - 1] or 0), rank))
    assert found == [*expected, *(rank for rank in ranks if values[rank - 1] is None)]


def test_numbers_that_are_none_come_last_and_objects_have_no_order() -> None:
    assert [hit.rank for hit in in_order_of(hits([2.0, float("nan"), 1.0]), "x")] == [3, 1, 2]
    times = [datetime(2024, 1, 2), None, datetime(2023, 1, 1)]
    assert [hit.rank for hit in in_order_of(hits(times), "-x")] == [1, 3, 2]
    with pytest.raises(QueryError, match=r"'x': its values \(dict\) have no order"):
        in_order_of(hits([{"a": 1}, {"b": 2}]), "x")


def copies(folder: Path, contents: list[int], seed: int) -> SearchIndex:
    """An index of files with some contents, of which each has a vector of its own."""
    points = clustered(seed, max(contents) + 1)
    encoder = ColourEncoder()
    with Writer.open(folder, model=encoder.identity, dim=encoder.dim) as writer:
        rows = [
            Row(id=i, path=f"{i}.png", content_hash=f"{c:032x}", size=100 - i, mtime_ns=i % 3, width=c + 1, height=1)
            for i, c in zip(writer.allocate(len(contents)), contents, strict=True)
        ]
        writer.commit(rows, points[contents])
    return SearchIndex(Snapshot(folder), encoder)


def named(searcher: Searcher, **options: Any) -> list[tuple[str | None, int]]:
    return [(hit.index, hit.id) for hit in searcher.query("dusk", **options).hits]


@settings(max_examples=40, deadline=None)
@given(
    contents=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=40), min_size=1, max_size=2),
    k=st.integers(1, 15),
    offset=st.integers(0, 10),
    extra=st.sampled_from([{}, {"diverse": True}, {"group_duplicates": 1.0}, {"where": "width > 4"}]),
)
def test_each_content_is_shown_once(
    tmp_path_factory: pytest.TempPathFactory,
    contents: list[list[int]],
    k: int,
    offset: int,
    extra: dict[str, Any],
) -> None:
    """The first of each in the ranking, and as many results as are asked for if there are; pages continue."""
    folder = tmp_path_factory.mktemp("unique")
    searcher = together([copies(folder / str(number), each, 3) for number, each in enumerate(contents)])
    whole = searcher.query("dusk", k=1000, **{name: value for name, value in extra.items() if name == "where"}).hits
    first = {hit.metadata["content_hash"]: (hit.index, hit.id) for hit in reversed(whole)}
    shown = named(searcher, k=1000, unique=True, **extra)
    assert set(shown) == set(first.values())
    assert len(shown) == len(first)
    if "diverse" not in extra:
        assert shown == [(hit.index, hit.id) for hit in whole if (hit.index, hit.id) in set(shown)]
    assert named(searcher, k=k, offset=offset, unique=True, **extra) == shown[offset : offset + k]


def test_copies_do_not_count_as_duplicates_where_each_content_is_shown_once(tmp_path: Path) -> None:
    index = copies(tmp_path / "i", [0, 0, 0, 1], 3)
    grouped = index.query(like=0, group_duplicates=0.999, k=1).hits[0]
    assert len(grouped.duplicates or ()) == 2
    assert index.query(like=0, group_duplicates=0.999, k=1, unique=True).hits[0].duplicates == ()


def test_many_copies_are_passed_over(tmp_path: Path) -> None:
    """More than the first search finds."""
    index = copies(tmp_path / "i", [*np.zeros(300, dtype=int).tolist(), 1, 2], 3)
    assert {hit.id for hit in index.query(like=0, k=3, unique=True).hits} == {0, 300, 301}
    assert [hit.id for hit in index.query(like=0, k=1, unique=True, threshold=0.999).hits] == [0]


def test_the_best_results_are_ordered(tmp_path: Path) -> None:
    index = copies(tmp_path / "i", list(range(20)), 3)
    best = index.query("dusk", k=6).hits
    by_size = index.query("dusk", k=6, sort="size").hits
    assert [hit.id for hit in by_size] == sorted((hit.id for hit in best), reverse=True)
    assert {hit.rank for hit in by_size} == set(range(1, 7))
    assert index.query("dusk", k=6, sort="-score").hits == best
    assert [hit.metadata["mtime_ns"] for hit in index.query("dusk", k=6, sort="mtime").hits] == sorted(
        hit.metadata["mtime_ns"] for hit in best
    )
    assert [result.hits for result in index.query_batch(["dusk"], k=6, sort="path")] == [
        sorted(best, key=lambda hit: hit.uri)
    ]
    with pytest.raises(QueryError, match=r"cannot be ordered by 'colour'; the columns are score, id, path, mtime, "):
        index.query("dusk", sort="colour")
    with pytest.raises(QueryError, match="'corpus'"):
        next(index.query_batch(["dusk"], sort="-corpus"))
