"""The query engine: compose terms, filter, plan, search, and join with metadata."""

from typing import TYPE_CHECKING

from llm2clip_search.base.lazy import lazy_names

if TYPE_CHECKING:
    from llm2clip_search.engine.chosen import Chosen
    from llm2clip_search.engine.columns import Column
    from llm2clip_search.engine.duplicates import DuplicateGroup, Duplicates, find_duplicates
    from llm2clip_search.engine.facets import Bin, Facet, Facets
    from llm2clip_search.engine.form import Condition
    from llm2clip_search.engine.opening import open_index
    from llm2clip_search.engine.places import Cell, Places
    from llm2clip_search.engine.plan import SearchPlan
    from llm2clip_search.engine.query import Query, Term
    from llm2clip_search.engine.results import Duplicate, Hit, Listed, Listing, Result
    from llm2clip_search.engine.search import SearchIndex
    from llm2clip_search.engine.searcher import Searcher
    from llm2clip_search.engine.selection import Ranked
    from llm2clip_search.engine.served_index import ServedIndex
    from llm2clip_search.engine.several import SearchIndices

__all__ = [
    "Bin",
    "Cell",
    "Chosen",
    "Column",
    "Condition",
    "Duplicate",
    "DuplicateGroup",
    "Duplicates",
    "Facet",
    "Facets",
    "Hit",
    "Listed",
    "Listing",
    "Places",
    "Query",
    "Ranked",
    "Result",
    "SearchIndex",
    "SearchIndices",
    "SearchPlan",
    "Searcher",
    "ServedIndex",
    "Term",
    "find_duplicates",
    "open_index",
]

__getattr__ = lazy_names(
    __name__,
    {
        "chosen": ("Chosen",),
        "columns": ("Column",),
        "duplicates": ("DuplicateGroup", "Duplicates", "find_duplicates"),
        "facets": ("Bin", "Facet", "Facets"),
        "form": ("Condition",),
        "opening": ("open_index",),
        "places": ("Cell", "Places"),
        "plan": ("SearchPlan",),
        "query": ("Query", "Term"),
        "results": ("Duplicate", "Hit", "Listed", "Listing", "Result"),
        "search": ("SearchIndex",),
        "searcher": ("Searcher",),
        "selection": ("Ranked",),
        "served_index": ("ServedIndex",),
        "several": ("SearchIndices",),
    },
)
