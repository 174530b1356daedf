"""Fetching a published checkpoint and turning it into a model folder in the cache, once."""

import json
import logging
from pathlib import Path

from llm2clip_search.base.files import file_sha256
from llm2clip_search.encoders.cache import cache_dir
from llm2clip_search.encoders.catalogue import CatalogueModel
from llm2clip_search.encoders.hub import HubUnreachableError, fetch_repository, hub_cache
from llm2clip_search.errors import ModelError

logger = logging.getLogger(__name__)


def converted_folder(model: CatalogueModel) -> Path:
    """Where the model folder of a checkpoint lies once it was pulled."""
    return cache_dir() / "models" / model.name


def is_pulled(model: CatalogueModel) -> bool:
    """Whether the model folder is there; a conversion gives it its name only when it is complete."""
    return (converted_folder(model) / "config.json").exists()


def pull(model: CatalogueModel) -> Path:
    """The model folder of a checkpoint, fetched with its LLM and converted when it is not in the cache yet.

    Raises:
        ModelError: a hub out of reach (the message tells what to fetch, how large it is and how), a full disk, another
            hash, or a checkpoint that is not what is published.
    """
    folder = converted_folder(model)
    if is_pulled(model):
        return folder
    if model.repo is None or model.llm is None:
        raise ModelError(f"{model.name} has nothing to convert; it is used as it is.")
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
            f"{model.name} is not in the cache, and the Hugging Face hub does not give it here; run 'llm2clip-search"
            f" models pull {model.name}' on a machine that reaches the hub (about {model.download_bytes / 1e9:.1f} GB:"
            f" {model.repo} and {model.llm.repo}) and copy {folder} and {hub_cache()} here."
        ) from error
    return folder


def verify(model: CatalogueModel) -> None:
    """Hold a pulled model folder to the hashes that its conversion wrote down.

    Raises:
        ModelError: a file that is gone or has another hash, with both.
    """
    folder = converted_folder(model)
    try:
        written: dict[str, str] = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["to"]
        found = {name: file_sha256(folder / name) for name in written}
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} is incomplete ({error}); remove it and pull {model.name} again.") from error
    for name, digest in written.items():
        if found[name] != digest:
            raise ModelError(
                f"{folder / name} has SHA-256 {found[name]}, but {digest} was written; remove the folder and pull"
                f" {model.name} again."
            )


def _fetch_files(model: CatalogueModel) -> Path:
    """The folder of the published files, or the one state dict among them that is named."""
    assert model.repo is not None, "only models of the hub are fetched"
    wanted = [alternative for pattern in model.files for alternative in pattern.split("|")]
    # Low-rank updates of the LLM come with their configuration.
    patterns = [*wanted, "*.json"] if model.layout == "siglip2" else wanted
    folder = fetch_repository(model.repo, model.revision, patterns, needed=model.files)
    return folder / model.files[0] if model.layout == "eva02" else folder
