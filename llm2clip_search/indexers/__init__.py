"""Indexers: corpora to decoded batches to embeddings to the store, and FAISS building."""

from llm2clip_search.indexers.ann import AnnConfig, build_ann
from llm2clip_search.indexers.folder import IndexSummary, index_folder

__all__ = ["AnnConfig", "IndexSummary", "build_ann", "index_folder"]
