"""Cross-modal retrieval with a large language model as CLIP's text tower.

>>> from llm2clip_search import index_folder, load_encoder, open_index
>>> index_folder("images", encoder=load_encoder("nano"))
>>> open_index().query("two children in red jackets climb a wet rock", k=5).hits
"""

import logging
from typing import TYPE_CHECKING, Any

from llm2clip_search.errors import (
    ConditionError,
    CorpusError,
    DamagedError,
    EngineError,
    ImageError,
    InputError,
    Llm2ClipError,
    ModelError,
    QueryError,
    StoreError,
)

if TYPE_CHECKING:
    from llm2clip_search.base.identity import ModelIdentity
    from llm2clip_search.base.progress import Progress
    from llm2clip_search.corpora import Corpus, FolderCorpus, Item, Skipped, SourceOptions
    from llm2clip_search.corpora.registry import open_corpora, open_corpus
    from llm2clip_search.encoders import Encoder, load_encoder
    from llm2clip_search.encoders.calibration import Calibration
    from llm2clip_search.encoders.config import PreprocessConfig
    from llm2clip_search.encoders.inputs import ImageInput
    from llm2clip_search.engine import (
        Bin,
        Cell,
        Chosen,
        Column,
        Condition,
        Duplicate,
        DuplicateGroup,
        Duplicates,
        Facet,
        Facets,
        Hit,
        Listed,
        Listing,
        Places,
        Query,
        Ranked,
        Result,
        Searcher,
        SearchIndex,
        SearchIndices,
        SearchPlan,
        ServedIndex,
        Term,
        find_duplicates,
        open_index,
    )
    from llm2clip_search.indexers import (
        AnnConfig,
        IndexConfig,
        IndexSummary,
        MergeSummary,
        PublishSummary,
        RepairSummary,
        Source,
        forget_source,
        index_corpus,
        index_folder,
        list_sources,
        merge_indices,
        move_source,
        publish_index,
        repair_index,
    )
    from llm2clip_search.store import DamagedFile, Verification, verify_index

__all__ = [
    "AnnConfig",
    "Bin",
    "Calibration",
    "Cell",
    "Chosen",
    "Column",
    "Condition",
    "ConditionError",
    "Corpus",
    "CorpusError",
    "DamagedError",
    "DamagedFile",
    "Duplicate",
    "DuplicateGroup",
    "Duplicates",
    "Encoder",
    "EngineError",
    "Facet",
    "Facets",
    "FolderCorpus",
    "Hit",
    "ImageError",
    "ImageInput",
    "IndexConfig",
    "IndexSummary",
    "InputError",
    "Item",
    "Listed",
    "Listing",
    "Llm2ClipError",
    "MergeSummary",
    "ModelError",
    "ModelIdentity",
    "Places",
    "PreprocessConfig",
    "Progress",
    "PublishSummary",
    "Query",
    "QueryError",
    "Ranked",
    "RepairSummary",
    "Result",
    "SearchIndex",
    "SearchIndices",
    "SearchPlan",
    "Searcher",
    "ServedIndex",
    "Skipped",
    "Source",
    "SourceOptions",
    "StoreError",
    "Term",
    "Verification",
    "find_duplicates",
    "forget_source",
    "index_corpus",
    "index_folder",
    "list_sources",
    "load_encoder",
    "merge_indices",
    "move_source",
    "open_corpora",
    "open_corpus",
    "open_index",
    "publish_index",
    "repair_index",
    "verify_index",
]

_HOMES = {
    "base.identity": ("ModelIdentity",),
    "base.progress": ("Progress",),
    "corpora": ("Corpus", "FolderCorpus", "Item", "Skipped", "SourceOptions"),
    "corpora.registry": ("open_corpora", "open_corpus"),
    "encoders": ("Encoder", "load_encoder"),
    "encoders.calibration": ("Calibration",),
    "encoders.config": ("PreprocessConfig",),
    "encoders.inputs": ("ImageInput",),
    "engine": (
        *("Bin", "Cell", "Chosen", "Column", "Condition", "Facet", "Facets", "Listed", "Listing", "Places"),
        *("Duplicate", "DuplicateGroup", "Duplicates", "Hit", "Query", "Ranked", "Result", "SearchIndex"),
        *("SearchIndices", "SearchPlan", "Searcher", "ServedIndex", "Term", "find_duplicates", "open_index"),
    ),
    "indexers": (
        *("AnnConfig", "IndexConfig", "IndexSummary", "MergeSummary", "PublishSummary", "RepairSummary", "Source"),
        *("forget_source", "index_corpus", "index_folder", "list_sources", "merge_indices", "move_source"),
        *("publish_index", "repair_index"),
    ),
    "store": ("DamagedFile", "Verification", "verify_index"),
}

# A library is silent unless its caller configures logging; the command line does.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import a module when one of its names is first used, so that ``--help`` pays for none."""
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
