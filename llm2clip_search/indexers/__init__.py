"""Indexers: plan what changed, embed it, commit it; merge and repair indices."""

from llm2clip_search.indexers.ann import build_ann
from llm2clip_search.indexers.corpus import (
    Embedding,
    IndexConfig,
    IndexSummary,
    LocalEmbedding,
    index_corpus,
    index_folder,
)
from llm2clip_search.indexers.merge import MergeSummary, merge_indices
from llm2clip_search.indexers.publish import PublishSummary, publish_index
from llm2clip_search.indexers.repair import RepairSummary, repair_index
from llm2clip_search.indexers.sources import (
    Source,
    forget_source,
    list_sources,
    move_source,
    open_source,
    open_sources,
)
from llm2clip_search.vectorindex.policy import AnnConfig

__all__ = [
    "AnnConfig",
    "Embedding",
    "IndexConfig",
    "IndexSummary",
    "LocalEmbedding",
    "MergeSummary",
    "PublishSummary",
    "RepairSummary",
    "Source",
    "build_ann",
    "forget_source",
    "index_corpus",
    "index_folder",
    "list_sources",
    "merge_indices",
    "move_source",
    "open_source",
    "open_sources",
    "publish_index",
    "repair_index",
]
