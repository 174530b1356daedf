"""Which rankings are kept for the next page, and which are let go."""

import gc
import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from llm2clip_search.engine import Query, Ranked, SearchIndex, Term, open_index
from llm2clip_search.server import rankings
from llm2clip_search.server.rankings import Rankings
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first term of each query that an index ranks."""
    queries = list[str]()
    rank = SearchIndex.rank

    def counted(self: SearchIndex, query: Query) -> Ranked:
        queries.append(str(query.terms[0].value))
        return rank(self, query)

    monkeypatch.setattr(SearchIndex, "rank", counted)
    return queries


def test_the_rankings_asked_for_last_are_kept(indexed: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    """Of twenty rows each, two fit; asking for one again makes it the newest."""
    monkeypatch.setattr(rankings, "HELD", 65)
    searcher = open_index(indexed, encoder=ColourEncoder())
    kept = Rankings()
    for colour in ("red", "green", "red", "blue", "red", "green", "green"):
        kept.reaching(Query(terms=(Term(kind="text", value=colour),)), searcher, end=10)
    assert asked == ["red", "green", "blue", "green"]


def uploaded(seed: int) -> bytes:
    """A picture as a term of an upload holds it, 5 MB."""
    held = io.BytesIO()
    photograph(seed, size=(1600, 1000)).save(held, "PPM")
    return held.getvalue()


def test_pictures_that_are_searched_with_are_not_kept(indexed: Path) -> None:
    """As when the slider of the lowest score is moved, each time with the same picture decoded again."""
    searcher = open_index(indexed, encoder=ColourEncoder())
    kept = Rankings()

    def ranked(number: int, seed: int) -> Ranked:
        terms = (Term(kind="image", value=uploaded(seed)), Term(kind="text", value="red"))
        return kept.reaching(Query(terms=terms, threshold=-1 + number / 1000), searcher, end=10)

    ranked(0, 1)
    tracemalloc.start()
    for number in range(1, 9):
        ranked(number, 1)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 2_000_000
    one, same, other = ranked(1, 1), ranked(1, 1), ranked(1, 2)
    assert one is same
    assert one is not other
    assert [hit.score for hit in searcher.page(one).hits] != [hit.score for hit in searcher.page(other).hits]


def test_grouped_duplicates_count(indexed: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    """One group may hold most of an index."""
    searcher = open_index(indexed, encoder=ColourEncoder())
    caption = Query(terms=(Term(kind="text", value="red"),))
    grouped = replace(caption, group_duplicates=0.01)
    kept = Rankings()
    [group] = kept.reaching(grouped, searcher, end=1).groups[:1]
    assert len(group.duplicates) > 3
    monkeypatch.setattr(rankings, "HELD", 2 * len(searcher))
    small = Rankings()
    for query in (grouped, caption, grouped):
        small.reaching(query, searcher, end=1)
    assert len(asked) == 4


@pytest.mark.parametrize("threshold", [None, 0.999])
def test_long_captions_and_empty_rankings_count(
    indexed: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], threshold: float | None
) -> None:
    """Ten captions of 15,000 characters take as much as a thousand results; a ranking without any takes something."""
    monkeypatch.setattr(rankings, "HELD", 500)
    searcher = open_index(indexed, encoder=ColourEncoder())
    kept = Rankings()
    captions = [f"{number} " * 5 for number in range(100)] if threshold else [f"{n} " * 7_500 for n in range(10)]
    for caption in [*captions, captions[0], captions[-1]]:
        kept.reaching(Query(terms=(Term(kind="text", value=caption),), threshold=threshold), searcher, end=10)
    assert len(asked) == len(captions) + 1
