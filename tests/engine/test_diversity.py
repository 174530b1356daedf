"""Near-duplicates under their best result, and maximal marginal relevance, against definitions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.engine import Hit
from llm2clip_search.engine.diversity import diversify
from llm2clip_search.engine.selection import DIVERSE_POOL, FUSED_POOL
from tests.support.several import index_of, stored, together
from tests.support.vectors import DIM, clustered


def unit(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def duplicates_of(hit: Hit) -> list[Any]:
    assert hit.duplicates is not None
    return list(hit.duplicates)


def bursts(seed: int, count: int, *, spread: float = 0.05) -> np.ndarray:
    """Vectors around few centres, as photographs taken in bursts."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(max(1, count // 4), DIM))
    return unit(centres[generator.integers(0, len(centres), count)] + spread * generator.normal(size=(count, DIM)))


def grouped(vectors: np.ndarray, order: list[int], threshold: float) -> list[list[int]]:
    """Each row under the first result that it is close to."""
    groups: list[list[int]] = []
    for row in order:
        near = [group for group in groups if vectors[group[0]] @ vectors[row] >= threshold - 1e-6]
        if near:
            near[0].append(row)
        else:
            groups.append([row])
    return groups


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 60),
    threshold=st.sampled_from([0.3, 0.9, 0.97, 1.0]),
    page=st.tuples(st.integers(1, 8), st.integers(0, 8)),
    indices=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_groups_are_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    threshold: float,
    page: tuple[int, int],
    indices: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("groups")
    searcher = together([index_of(folder / str(n), bursts(seed, rows)) for n in range(indices)])
    names, vectors = stored(searcher)
    query = searcher.encoder.encode_texts(["dusk"])[0].astype(np.float64)
    order = np.lexsort((np.arange(len(names)), -(vectors @ query).astype(np.float32))).tolist()
    groups = grouped(unit(vectors), order, threshold)
    k, offset = page
    hits = searcher.query("dusk", group_duplicates=threshold, k=k, offset=offset).hits
    folders = [str(part.snapshot.folder) for part in searcher.parts]
    found = [
        [(folders.index(each.index) if each.index else 0, each.id) for each in [hit, *duplicates_of(hit)]]
        for hit in hits
    ]
    assert found == [[names[row] for row in group] for group in groups[offset : offset + k]]


def test_the_search_goes_deeper_until_there_are_enough_groups(tmp_path: Path) -> None:
    """The best 1,200 rows are one picture, more than a first look holds; then there are others."""
    generator = np.random.default_rng(0)
    others = unit(generator.normal(size=(30, DIM)))
    index = index_of(tmp_path, np.repeat(np.eye(DIM)[:1], 1200, axis=0), others)
    assert FUSED_POOL < 1200
    hits = index.query(like=5, group_duplicates=0.99, k=4).hits
    assert hits[0].duplicates is not None
    assert [hit.id for hit in hits[0].duplicates] == list(range(1, 1200))
    assert len(hits) == 4
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert hits[0].to_dict()["duplicates"][0] == {"id": 1, "path": str(tmp_path.parent / "1.jpg")}
    every = index.query(like=5, group_duplicates=0.99, k=100).hits
    assert len(every) == 31  # until candidates run out
    assert index.query(like=5, group_duplicates=0.99, k=100, threshold=0.9).hits == every[:1]


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(0, 30), seed=st.integers(0, 1000))
def test_diversity_is_its_definition(rows: int, seed: int) -> None:
    vectors = bursts(seed, rows, spread=0.3).astype(np.float32)
    relevance = np.sort(np.random.default_rng(seed).random(rows))[::-1]
    order = diversify(relevance, vectors).tolist()
    assert sorted(order) == list(range(rows))
    similarity = vectors @ vectors.T
    if rows < 2:
        return
    similarity = (similarity - similarity.min()) / np.ptp(similarity)
    scaled = (relevance - relevance.min()) / np.ptp(relevance)
    assert order[0] == 0
    for place in range(1, rows):
        chosen, left = order[:place], [row for row in range(rows) if row not in order[:place]]
        marginal = {row: 0.5 * scaled[row] - 0.5 * max(similarity[row, chosen]) for row in left}
        assert marginal[order[place]] == pytest.approx(max(marginal.values()), abs=1e-6)


def test_pages_of_diverse_results_are_parts_of_one_order(tmp_path: Path) -> None:
    index = index_of(tmp_path, clustered(1, 300))
    plain = [hit.id for hit in index.query("dusk", k=300).hits]
    whole = [hit.id for hit in index.query("dusk", k=300, diverse=True).hits]
    pages = [
        hit.id for offset in range(0, 300, 40) for hit in index.query("dusk", k=40, offset=offset, diverse=True).hits
    ]
    assert pages == whole
    assert sorted(whole[:DIVERSE_POOL]) == sorted(plain[:DIVERSE_POOL])
    assert whole[:DIVERSE_POOL] != plain[:DIVERSE_POOL]
    assert whole[0] == plain[0]
    assert whole[DIVERSE_POOL:] == plain[DIVERSE_POOL:]


def test_diverse_results_are_less_alike(tmp_path: Path) -> None:
    index = index_of(tmp_path, bursts(3, 200))

    def alike(**options: Any) -> float:
        vectors = unit(index.snapshot.vectors([hit.id for hit in index.query("dusk", **options).hits]))
        return float(np.triu(vectors @ vectors.T, 1).sum())

    assert alike(diverse=True) < 0.7 * alike()


def test_duplicates_are_grouped_before_results_are_diversified(tmp_path: Path) -> None:
    index = index_of(tmp_path, bursts(4, 100))
    groups = {hit.id: hit.duplicates for hit in index.query("dusk", k=100, group_duplicates=0.9).hits}
    both = index.query("dusk", k=100, group_duplicates=0.9, diverse=True).hits
    assert {hit.id: hit.duplicates for hit in both} == groups
    assert [hit.id for hit in both] != list(groups)
