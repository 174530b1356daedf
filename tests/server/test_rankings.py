"""Which rankings are kept for the next page, and which are let go."""

from pathlib import Path

import pytest

from llm2clip_search.engine import Query, Ranked, SearchIndex, Term, open_index
from llm2clip_search.server import rankings
from llm2clip_search.server.rankings import Rankings
from tests.support.encoders import ColourEncoder


def test_the_rankings_asked_for_last_are_kept(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twenty rows each, two fit; asking for one again makes it the newest."""
    monkeypatch.setattr(rankings, "HELD", 45)
    searcher = open_index(indexed, encoder=ColourEncoder())
    asked = list[str]()
    rank = SearchIndex.rank

    def counted(self: SearchIndex, query: Query) -> Ranked:
        asked.append(str(query.terms[0].value))
        return rank(self, query)

    monkeypatch.setattr(SearchIndex, "rank", counted)
    kept = Rankings()
    for colour in ("red", "green", "red", "blue", "red", "green", "green"):
        kept.reaching(Query(terms=(Term(kind="text", value=colour),)), searcher, end=10)
    assert asked == ["red", "green", "blue", "green"]
