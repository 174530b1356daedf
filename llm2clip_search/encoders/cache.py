"""The cache folder, and what is said when something cannot be written to it."""

import errno
import os
import shutil
from pathlib import Path


def cache_dir() -> Path:
    """Folder for fetched weights and compiled towers: ``LLM2CLIP_CACHE``, or the user's cache folder."""
    if override := os.environ.get("LLM2CLIP_CACHE"):
        return Path(override).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("llm2clip-search", appauthor=False)


def unwritten(what: str, folder: Path, error: OSError) -> str:
    """What could not be written and why; a full disk is told with the space that is left."""
    if error.errno != errno.ENOSPC:
        return f"{what} could not be written to {folder}: {error.strerror or type(error).__name__}."
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free / 1e9
    return (
        f"{what} does not fit on the disk of {folder}, where {free:.1f} GB are free; nothing half-written is left:"
        " make room, or set LLM2CLIP_CACHE or HF_HOME to a folder on another disk."
    )
