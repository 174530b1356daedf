"""Corpora: where images and captions come from, and decoding them ahead of the vision tower."""

from llm2clip_search.corpora.corpus import Corpus, Item
from llm2clip_search.corpora.folder import FolderCorpus
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.skipped import Skipped

__all__ = ["Corpus", "FolderCorpus", "Item", "Skipped", "SourceOptions"]
