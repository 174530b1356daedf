"""The query engine: compose terms, filter, plan, search, and join with metadata."""

from llm2clip_search.engine.duplicates import DuplicateGroup, Duplicates, find_duplicates
from llm2clip_search.engine.plan import SearchPlan
from llm2clip_search.engine.query import Query, Term
from llm2clip_search.engine.results import Duplicate, Hit, Result
from llm2clip_search.engine.search import SearchIndex, open_index
from llm2clip_search.engine.searcher import Searcher
from llm2clip_search.engine.selection import Ranked
from llm2clip_search.engine.several import SearchIndices

__all__ = [
    "Duplicate",
    "DuplicateGroup",
    "Duplicates",
    "Hit",
    "Query",
    "Ranked",
    "Result",
    "SearchIndex",
    "SearchIndices",
    "SearchPlan",
    "Searcher",
    "Term",
    "find_duplicates",
    "open_index",
]
