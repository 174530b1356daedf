"""Cross-modal retrieval with a large language model as CLIP's text tower.

>>> from llm2clip_search import index_folder, load_encoder, open_index
>>> index_folder("images", encoder=load_encoder("nano"))
>>> open_index().query("two children in red jackets climb a wet rock", k=5).hits
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm2clip_search.encoders import Encoder, load_encoder
    from llm2clip_search.engine import SearchIndex, open_index
    from llm2clip_search.indexers import index_folder

__all__ = ["Encoder", "SearchIndex", "index_folder", "load_encoder", "open_index"]

# A library is silent unless its caller configures logging; the command line does.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES = {
    "Encoder": "encoders",
    "load_encoder": "encoders",
    "SearchIndex": "engine",
    "open_index": "engine",
    "index_folder": "indexers",
}


def __getattr__(name: str) -> Any:
    """Import a room when one of its names is first used: ``--help`` must not pay for any."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
