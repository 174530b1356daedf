"""The cache folder, checksums of files that models are loaded from, and the error for what cannot be written."""

import errno
import os
import shutil
from functools import cache
from pathlib import Path

from llm2clip_search.base.checksums import KnownChecksums
from llm2clip_search.errors import ModelError


def cache_dir() -> Path:
    """Folder for fetched weights, converted models and compiled towers: ``LLM2CLIP_CACHE``, or the user's cache."""
    if override := os.environ.get("LLM2CLIP_CACHE"):
        return Path(override).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("llm2clip-search", appauthor=False)


def model_file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file that a model is loaded from; one that has not changed since the last time is not read.

    What is known is kept in the cache folder, wherever the file is. If the folder cannot be written, each process
    reads the file once.

    Raises:
        OSError: it cannot be read.
    """
    # The hub's client links to its files, and what a link leads to may change without it.
    return _known(cache_dir().absolute()).sha256(path.resolve())


def confirm_pinned(path: Path, sha256: str) -> None:
    """Compare a file of the cache with its pinned SHA-256 before it is loaded; see `model_file_sha256` for its cost.

    Raises:
        ModelError: it is another file, or cannot be read.
    """
    try:
        found = model_file_sha256(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or type(error).__name__}.") from error
    if found != sha256:
        raise ModelError(
            f"{path} has SHA-256 {found}, but {sha256} is pinned: it was damaged or replaced after it was fetched.",
            hint=f"Delete {path.resolve()} and run the command again, which fetches it again.",
        )


@cache
def _known(folder: Path) -> KnownChecksums:
    return KnownChecksums(folder)


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
