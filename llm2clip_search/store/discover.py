"""Where the index is: named, or found from the current folder upward, as git finds ``.git``."""

from pathlib import Path

from llm2clip_search.errors import StoreError
from llm2clip_search.store.manifest import MANIFEST, has_shards

DEFAULT_FOLDER = ".llm2clip"


def default_index() -> Path:
    """The index that a new corpus goes into: the nearest one upward, else ``./.llm2clip``, which need not exist."""
    try:
        return find_index()
    except StoreError:
        return Path.cwd() / DEFAULT_FOLDER


def has_index(folder: Path) -> bool:
    """True if a folder holds an index, be it one that has lost its manifest or that this user may not read."""
    try:
        return (folder / MANIFEST).is_file() or has_shards(folder)
    except PermissionError:
        return True


def find_index(start: Path | None = None) -> Path:
    """The nearest index folder at or above ``start``, by default the current folder.

    Raises:
        StoreError: there is none up to the root.
    """
    start = (start or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if has_index(candidate := folder / DEFAULT_FOLDER):
            return candidate
    raise StoreError(
        f"There is no index in {start} or above it.",
        hint="Run 'llm2clip-search index FOLDER' to create one, or name one that is elsewhere with --index.",
    )
