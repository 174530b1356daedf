"""Probabilities of hits: those of the calibration, whatever the page, the filter or the number of indices."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llm2clip_search.encoders.calibration import POOL, Calibration
from llm2clip_search.engine import Result, Searcher, SearchIndex
from llm2clip_search.store import Snapshot, Writer
from tests.support.encoders import ColourEncoder
from tests.support.photos import rows_of
from tests.support.several import index_of, stored, together
from tests.support.vectors import clustered

CALIBRATION = Calibration(lead=4.0, cosine=2.0, offset=-3.0)
ROWS = 300


class Calibrated(ColourEncoder):
    calibration = CALIBRATION


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return index_of(tmp_path_factory.mktemp("index"), clustered(1, 200), clustered(2, 100), encoder=Calibrated())


def expected(searcher: Searcher, caption: str, count: int) -> list[float]:
    """Probabilities of the best rows, by comparing the caption with everything."""
    _, vectors = stored(searcher)
    scores = np.sort(vectors @ searcher.encoder.encode_texts([caption])[0].astype(np.float64))[::-1]
    return [CALIBRATION.for_query(scores, len(scores))(score) for score in scores[:count].tolist()]


def probabilities(result: Result) -> list[float]:
    assert all(hit.probability is not None for hit in result.hits)
    return [hit.probability for hit in result.hits if hit.probability is not None]


@pytest.mark.parametrize(("k", "offset"), [(1, 0), (3, 0), (3, 5), (POOL, 0), (50, 0), (10, 290)])
def test_a_page_shows_part_of_the_same_probabilities(searcher: Searcher, k: int, offset: int) -> None:
    found = probabilities(searcher.query("a red wall", k=k, offset=offset))
    assert found == pytest.approx(expected(searcher, "a red wall", ROWS)[offset : offset + k], abs=1e-5)
    assert found == sorted(found, reverse=True)


def test_a_column_that_is_called_so_takes_no_place(tmp_path: Path) -> None:
    """New indices have it as ``source_probability``."""
    encoder, rows = Calibrated(), rows_of(30)
    vectors = clustered(1, len(rows))
    with Writer.open(tmp_path / "i", model=encoder.identity, dim=vectors.shape[1]) as writer:
        writer.commit(rows, vectors, columns=pa.table({"probability": [2.0 + number for number in range(30)]}))
    result = SearchIndex(Snapshot(tmp_path / "i"), encoder).query("dusk", k=9, sort="probability")
    found = probabilities(result)
    assert found == sorted(found)
    assert [hit.to_dict()["probability"] for hit in result.hits] == found


def test_what_is_done_with_the_ranking_changes_none(searcher: Searcher) -> None:
    of_id = {hit.id: hit.probability for hit in searcher.query("dusk", k=ROWS).hits}
    for result in (
        searcher.query("dusk", k=5, diverse=True),
        searcher.query("dusk", k=5, group_duplicates=0.9),
        searcher.query("dusk", k=5, unique=True, sort="-id"),
        searcher.query("dusk", k=5, threshold=-1.0, recall=1.0),
        next(searcher.query_batch(["dusk", "dawn"], k=5)),
    ):
        assert len(result.hits) == 5
        assert all(hit.probability == pytest.approx(of_id[hit.id], abs=1e-6) for hit in result.hits)


def test_a_filter_leaves_other_competitors(searcher: Searcher) -> None:
    (part,) = searcher.parts
    result = searcher.query("dusk", k=2, where="id < 40")
    vectors = part.snapshot.vectors(range(40)).astype(np.float64)
    scores = np.sort(vectors @ searcher.encoder.encode_texts(["dusk"])[0].astype(np.float64))[::-1]
    of_query = CALIBRATION.for_query(scores, 40)
    assert probabilities(result) == pytest.approx([of_query(score) for score in scores[:2].tolist()], abs=1e-5)
    alone = searcher.query("dusk", where="id = 3").hits[0]
    assert alone.probability == pytest.approx(CALIBRATION.for_query(np.array([alone.score]), 1)(alone.score))
    assert searcher.query("dusk", where="id < 0").hits == []


def test_several_indices_are_one_gallery(tmp_path: Path) -> None:
    encoder = Calibrated()
    both = together([index_of(tmp_path / name, clustered(seed, 30), encoder=encoder) for seed, name in enumerate("ab")])
    assert probabilities(both.query("noon", k=60)) == pytest.approx(expected(both, "noon", 60), abs=1e-5)


@pytest.mark.parametrize(
    "ask",
    [
        lambda index: index.query(like=3),
        lambda index: index.query("dusk", like=3),
        lambda index: index.query("dusk", add="rain"),
        lambda index: index.query(["dusk", "dawn"], fuse="max"),
        lambda index: index.query(["dusk", "dawn"], fuse="rank"),
    ],
)
def test_other_queries_have_none(searcher: Searcher, ask: Callable[[Searcher], Result]) -> None:
    result = ask(searcher)
    assert result.hits
    assert all(hit.probability is None and "probability" not in hit.to_dict() for hit in result.hits)


def test_other_models_have_none_and_search_no_deeper(searcher: Searcher) -> None:
    plain = SearchIndex(searcher.parts[0].indexed, ColourEncoder())
    result = plain.query("dusk", k=3)
    assert [hit.probability for hit in result.hits] == [None] * 3
    calibrated = searcher.query("dusk", k=3)
    assert [(hit.id, hit.score) for hit in result.hits] == [(hit.id, hit.score) for hit in calibrated.hits]


def test_a_hit_says_it_in_json(searcher: Searcher) -> None:
    (hit,) = searcher.query("dusk", k=1).hits
    assert list(hit.to_dict())[:4] == ["rank", "id", "score", "probability"]
    assert hit.to_dict()["probability"] == hit.probability


def test_an_index_without_an_encoder_is_searched_as_before(searcher: Searcher) -> None:
    plain = SearchIndex(Snapshot(searcher.parts[0].indexed.folder))
    assert plain.query(like=1, k=1).hits[0].probability is None
