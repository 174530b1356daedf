"""The cache folder, and the error for what cannot be written to it."""

import errno
import os
import shutil
from pathlib import Path

from llm2clip_search.errors import ModelError


def cache_dir() -> Path:
    """Folder for fetched weights, converted models and compiled towers: ``LLM2CLIP_CACHE``, or the user's cache."""
    if override := os.environ.get("LLM2CLIP_CACHE"):
        return Path(override).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("llm2clip-search", appauthor=False)


def write_error(what: str, folder: Path, error: OSError) -> ModelError:
    """The error for what could not be written to a folder; for a full disk it states the free space."""
    if error.errno != errno.ENOSPC:
        return ModelError(f"{what} could not be written to {folder}: {error.strerror or type(error).__name__}.")
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 1e9
    return ModelError(
        f"{what} does not fit on the disk of {folder}, where {free:.1f} GB are free; no partial file is left.",
        hint="Free some space, or set LLM2CLIP_CACHE or HF_HOME to a folder on another disk.",
    )
