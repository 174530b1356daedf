"""Where the index is: named, or found from the current folder upward, as git finds ``.git``."""

from pathlib import Path

from llm2clip_search.errors import StoreError
from llm2clip_search.store.manifest import MANIFEST

DEFAULT_FOLDER = ".llm2clip"


def default_index() -> Path:
    """The index that a new corpus goes into: the nearest one upward, else ``./.llm2clip``, not yet made."""
    try:
        return find_index()
    except StoreError:
        return Path.cwd() / DEFAULT_FOLDER


def find_index(start: Path | None = None) -> Path:
    """The nearest index folder at or above ``start``, by default the current folder.

    Raises:
        StoreError: none up to the root.
    """
    start = (start or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (candidate := folder / DEFAULT_FOLDER) and (candidate / MANIFEST).is_file():
            return candidate
    raise StoreError(
        f"There is no index in {start} or above it; 'llm2clip-search index FOLDER' makes one,"
        " and --index names one that lies elsewhere."
    )
