"""Which rankings are kept for the next page, and which are let go."""

from pathlib import Path

import pytest

from llm2clip_search.engine import Query, Ranked, SearchIndex, Term, open_index
from llm2clip_search.server import rankings
from llm2clip_search.server.opened import Opened
from llm2clip_search.server.rankings import Rankings
from tests.support.encoders import ColourEncoder


def test_the_rankings_asked_for_last_are_kept(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twenty rows each, two fit; asking for one again makes it the newest."""
    monkeypatch.setattr(rankings, "HELD", 45)
    opened = Opened(searcher=open_index(indexed, encoder=ColourEncoder()), generation="first")
    asked = list[str]()
    rank = SearchIndex.rank

    def counted(self: SearchIndex, query: Query) -> Ranked:
        asked.append(str(query.terms[0].value))
        return rank(self, query)

    monkeypatch.setattr(SearchIndex, "rank", counted)
    kept = Rankings()
    for colour in ("red", "green", "red", "blue", "red", "green", "green"):
        kept.reaching(Query(terms=(Term(kind="text", value=colour),)), opened, end=10)
    assert asked == ["red", "green", "blue", "green"]


def test_a_ranking_of_an_earlier_state_is_not_read(indexed: Path) -> None:
    searcher, kept = open_index(indexed, encoder=ColourEncoder()), Rankings()
    query = Query(terms=(Term(kind="text", value="red"),))
    first = kept.reaching(query, Opened(searcher=searcher, generation="first"), end=10)
    assert kept.reaching(query, Opened(searcher=searcher, generation="first"), end=10) is first
    assert kept.reaching(query, Opened(searcher=searcher, generation="second"), end=10) is not first
