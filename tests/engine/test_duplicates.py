"""Groups of near-duplicates against connected components of all pairs."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search import AnnConfig, find_duplicates
from llm2clip_search.engine import SearchIndex, duplicates
from llm2clip_search.errors import QueryError
from llm2clip_search.indexers import build_ann
from llm2clip_search.store import Snapshot, Writer
from tests.support.several import index_of
from tests.support.vectors import DIM, MODEL, add, clustered


def unit(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def components(vectors: np.ndarray, ids: list[int], threshold: float) -> list[list[int]]:
    """By walking from each image to its neighbours."""
    near = unit(vectors) @ unit(vectors).T >= threshold - 1e-6
    left, groups = set(range(len(ids))), []
    while left:
        pending, group = [left.pop()], []
        while pending:
            row = pending.pop()
            group.append(ids[row])
            reached = left & set(np.flatnonzero(near[row]).tolist())
            left -= reached
            pending += reached
        if len(group) > 1:
            groups.append(sorted(group))
    return sorted(groups, key=lambda group: (-len(group), group[0]))


@settings(max_examples=40, deadline=None)
@given(
    shards=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    threshold=st.sampled_from([0.5, 0.8, 0.95, 1.0]),
    block=st.integers(1, 40),
    pairs=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_groups_are_connected_components(
    tmp_path_factory: pytest.TempPathFactory, shards: list[int], threshold: float, block: int, pairs: int, seed: int
) -> None:
    """In blocks of any size, with deleted rows and copies."""
    generator = np.random.default_rng(seed)
    points = unit(generator.normal(size=(8, DIM)))
    folder = tmp_path_factory.mktemp("duplicates")
    with Writer.open(folder, model=MODEL, dim=DIM) as writer:
        for count in shards:
            chosen = points[generator.integers(0, 8, count)]
            add(
                writer, unit(chosen + 0.15 * generator.normal(size=(count, DIM)) * generator.integers(0, 2, (count, 1)))
            )
        writer.commit(removed=generator.integers(0, sum(shards), 3).tolist())
    index = SearchIndex(Snapshot(folder))
    ids = index.snapshot.live_ids.tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", block)
        patch.setattr(duplicates, "_PAIRS", pairs)
        found = find_duplicates(index, threshold=threshold)
        expected = components(index.snapshot.vectors(ids), ids, threshold)
        assert [group.tolist() for group in found.groups] == expected
        assert found.is_exact
        even = [each for each in ids if each % 2 == 0]
        filtered = find_duplicates(index, threshold=threshold, where="id % 2 = 0")
    assert [group.tolist() for group in filtered.groups] == components(index.snapshot.vectors(even), even, threshold)
    assert filtered.compared == len(even)


def test_chains_of_any_length_are_one_group(tmp_path: Path) -> None:
    """Each vector is close to the next one only; in random order, so that roots have to be found."""
    angles = np.random.default_rng(0).permutation(300) * 0.02
    vectors = np.zeros((300, DIM))
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    (group,) = find_duplicates(index_of(tmp_path, vectors), threshold=float(np.cos(0.025))).groups
    assert group.tolist() == list(range(300))


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_large_index_is_searched(tmp_path: Path, kind: Literal["flat", "hnsw"]) -> None:
    """By nearest neighbours, exact or approximate, with and without a filter."""
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(0, 300))
        add(writer, clustered(0, 300)[:50] * np.float32(1))
        writer.commit(removed=[5])
        build_ann(writer, AnnConfig(kind=kind))
    index = SearchIndex(Snapshot(tmp_path))
    ids = index.snapshot.live_ids.tolist()
    calls: list[int] = []
    found = find_duplicates(
        index, threshold=0.99, exact_rows=100, progress=lambda task, done, total, figures: calls.append(done)
    )
    assert not found.is_exact
    assert [group.tolist() for group in found.groups] == components(index.snapshot.vectors(ids), ids, 0.99)
    assert calls[0] == 0
    assert calls[-1] == len(ids)
    some = [each for each in ids if each < 320]
    filtered = find_duplicates(index, threshold=0.99, exact_rows=100, where="id < 320")
    assert [group.tolist() for group in filtered.groups] == components(index.snapshot.vectors(some), some, 0.99)


def test_the_best_of_a_group_is_its_largest_picture(tmp_path: Path) -> None:
    """The builder gives image i a width of i % 100 and a file size of i."""
    vectors = np.repeat(np.eye(DIM)[:2], [3, 140], axis=0)
    found = find_duplicates(index_of(tmp_path, vectors))
    assert len(found) == 2
    large, small = list(found)
    assert len(large) == 140
    assert large.best["id"] == 99
    assert [other["id"] for other in large.others[:3]] == [98, 97, 96]
    assert [other["id"] for other in large.others if other["width"] == 30] == [130, 30]  # the larger file first
    assert small.to_dict() == {
        "images": 3,
        "best": {"id": 2, "path": str(tmp_path.parent / "2.jpg"), "width": 2, "height": 1, "size": 2},
        "others": [
            {"id": i, "path": str(tmp_path.parent / f"{i}.jpg"), "width": i, "height": 1, "size": i, "score": 1.0}
            for i in (1, 0)
        ],
    }


def test_nothing_to_find_and_what_is_refused(tmp_path: Path) -> None:
    with Writer.open(tmp_path / "empty", model=MODEL, dim=DIM):
        pass
    empty = find_duplicates(SearchIndex(Snapshot(tmp_path / "empty")))
    assert (list(empty), empty.compared, empty.is_exact) == ([], 0, True)
    index = index_of(tmp_path / "i", np.eye(DIM))
    assert list(find_duplicates(index)) == []
    assert list(find_duplicates(index, where="1 = 0")) == []
    for threshold in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(QueryError, match="cosine of duplicates is"):
            find_duplicates(index, threshold=threshold)
    with pytest.raises(QueryError, match="'foo' that does not exist"):
        find_duplicates(index, where="foo = 1")
