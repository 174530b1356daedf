"""Corpora: where images and captions come from, and decoding them ahead of the vision tower."""

from typing import TYPE_CHECKING

from llm2clip_search.base.lazy import lazy_names

if TYPE_CHECKING:
    from llm2clip_search.corpora.corpus import Corpus, Item
    from llm2clip_search.corpora.folder import FolderCorpus
    from llm2clip_search.corpora.options import SourceOptions
    from llm2clip_search.corpora.skipped import Skipped

__all__ = ["Corpus", "FolderCorpus", "Item", "Skipped", "SourceOptions"]

__getattr__ = lazy_names(
    __name__,
    {
        "corpus": ("Corpus", "Item"),
        "folder": ("FolderCorpus",),
        "options": ("SourceOptions",),
        "skipped": ("Skipped",),
    },
)
