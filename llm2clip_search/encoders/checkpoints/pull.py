"""Fetch a published checkpoint and convert it to a model folder in the cache, once."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llm2clip_search.base.files import file_sha256
from llm2clip_search.encoders.cache import cache_dir, model_file_sha256
from llm2clip_search.encoders.hub import HubUnreachableError, fetch_repository, hub_cache
from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    from llm2clip_search.encoders.catalogue import CatalogueModel

logger = logging.getLogger(__name__)


def converted_folder(model: "CatalogueModel") -> Path:
    """Path of the model folder that `pull` makes of a checkpoint."""
    return cache_dir() / "models" / model.name


def is_pulled(model: "CatalogueModel") -> bool:
    """Whether the model folder exists; it is renamed to this path only when its conversion is complete."""
    return (converted_folder(model) / "config.json").exists()


def pull(model: "CatalogueModel") -> Path:
    """Find the model folder of a checkpoint in the cache, or fetch the checkpoint and its LLM and convert it.

    A folder in the cache is compared with the hashes of its conversion; what has not changed since is not read again.

    Raises:
        ModelError: the hub cannot be reached (the message says what is needed and how large it is), the disk is full,
            a hash differs, or the checkpoint does not have its published layout.
    """
    folder = converted_folder(model)
    if is_pulled(model):
        verify(model, sha256=model_file_sha256)
        return folder
    if model.repo is None or model.llm is None:
        raise ModelError(f"{model.name} is used as it is; there is nothing to convert.")
    size = f"about {model.download_bytes / 1e9:.1f} GB"
    logger.info("Fetching and converting %s (once), %s with its LLM, %s.", model.name, size, model.llm.repo)
    try:
        source = _fetch_files(model)
        from llm2clip_search.encoders.checkpoints.convert import convert

        convert(
            source,
            folder,
            llm=f"hf:{model.llm.repo}",
            name=model.name,
            licence=model.licence or "unknown",
            training_data=model.training_data,
        )
    except HubUnreachableError as error:
        raise ModelError(
            f"{model.name} is not in the cache, and the Hugging Face hub cannot be reached: {model.repo} and"
            f" {model.llm.repo} are needed, {size}.",
            hint=f"Run 'llm2clip-search models pull {model.name}' on a machine that reaches the hub, then copy {folder}"
            f" and {hub_cache()} here.",
        ) from error
    return folder


def verify(model: "CatalogueModel", *, sha256: Callable[[Path], str] = file_sha256) -> None:
    """Compare a pulled model folder with the hashes recorded by its conversion.

    Args:
        sha256: takes the checksum of a file; reads all of it by default.

    Raises:
        ModelError: a file is missing, or has another hash than the recorded one; both are named.
    """
    folder = converted_folder(model)
    try:
        written: dict[str, str] = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["to"]
        found = {name: sha256(folder / name) for name in written}
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder} is incomplete ({error}).",
            hint=f"Remove it and run 'llm2clip-search models pull {model.name}' again.",
        ) from error
    for name, digest in written.items():
        if found[name] != digest:
            raise ModelError(
                f"{folder / name} has SHA-256 {found[name]}, but {digest} was written.",
                hint=f"Remove the folder and run 'llm2clip-search models pull {model.name}' again.",
            )


def _fetch_files(model: "CatalogueModel") -> Path:
    """The folder of the published files, or the state dict among them where the catalogue names one."""
    assert model.repo is not None, "only models of the hub are fetched"
    wanted = [alternative for pattern in model.files for alternative in pattern.split("|")]
    # The LLM's low-rank updates come with a configuration file.
    patterns = [*wanted, "*.json"] if model.layout == "siglip2" else wanted
    folder = fetch_repository(model.repo, model.revision, patterns, needed=model.files)
    return folder / model.files[0] if model.layout == "eva02" else folder
