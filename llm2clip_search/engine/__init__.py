"""The query engine: compose terms, filter, plan, search, and join with metadata."""

from llm2clip_search.engine.plan import SearchPlan
from llm2clip_search.engine.query import Query, Term
from llm2clip_search.engine.results import Hit, Result
from llm2clip_search.engine.search import SearchIndex, open_index

__all__ = ["Hit", "Query", "Result", "SearchIndex", "SearchPlan", "Term", "open_index"]
