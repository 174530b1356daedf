"""Repositories of the Hugging Face hub: fetched once, checked by hash, found offline afterwards."""

import errno
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from llm2clip_search.base.files import file_sha256
from llm2clip_search.encoders.cache import unwritten
from llm2clip_search.errors import ModelError

_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubUnreachableError(ModelError):
    """The Hugging Face hub did not answer, or not with what was asked for."""


def fetch_hub(repo: str, revision: str | None, patterns: Sequence[str], *, needed: Sequence[str]) -> Path:
    """Bring the files of a repository of the Hugging Face hub here that match ``patterns``, or find them here.

    Args:
        needed: glob patterns each of which must find a file, or it is fetched again; a bar separates alternatives.

    Raises:
        HubUnreachableError: the hub does not answer, or has no such repository.
        ModelError: a gate, a full disk, another hash, or a repository without such a file.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
    from huggingface_hub.utils import logging as hub_logging

    name = f"hf:{repo}{'@' + revision if revision else ''}"
    if found := find_snapshot(repo, revision, needed):
        return found
    print(f"Fetching {repo} from the Hugging Face hub (once) ...", file=sys.stderr)
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # it would tell of every retry; the sentence at the end is ours
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is behind a gate; accept its licence at https://huggingface.co/{repo} and run 'hf auth login'."
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            blobs = hub_cache() / f"models--{repo.replace('/', '--')}" / "blobs"
            for half in blobs.glob("*.incomplete"):
                half.unlink(missing_ok=True)
            raise ModelError(unwritten(name, hub_cache(), error)) from error
        raise HubUnreachableError(
            f"{name} is not in the local cache and could not be fetched ({type(error).__name__}); run"
            f" 'hf download {repo}{' --revision ' + revision if revision else ''}' on a machine that reaches the hub"
            f" and copy its cache to {hub_cache()}, or copy its files and name the folder with dir:PATH."
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)
    _verify_blobs(folder)
    if missing := _missing(folder, needed):
        wanted = " or ".join(missing).replace("|", " or ")
        raise ModelError(
            f"{name} holds no {wanted}; pickles (.bin, .pt) are not loaded from the hub, but a state dict"
            " of LLM2CLIP's training repository can be downloaded and turned into a model folder by"
            " 'llm2clip-search models convert FILE FOLDER', which reads tensors alone."
        )
    return folder


def find_snapshot(repo: str, revision: str | None, needed: Sequence[str]) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return None if _missing(folder, needed) else folder


def _missing(folder: Path, needed: Sequence[str]) -> list[str]:
    return [pattern for pattern in needed if not any(any(folder.glob(name)) for name in pattern.split("|"))]


def hub_cache() -> Path:
    """Folder in which huggingface_hub keeps what it fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _verify_blobs(folder: Path) -> None:
    """The hub names large files by their SHA-256 in its cache: hold what was written to it."""
    for path in folder.rglob("*"):
        blob = path.resolve()
        if blob.parent.name != "blobs" or not _SHA256.fullmatch(blob.name):
            continue
        if (found := file_sha256(blob)) != blob.name:
            path.unlink()
            blob.unlink()
            raise ModelError(
                f"{path.name} came from the hub with SHA-256 {found}, but {blob.name} is published; it was removed,"
                " so fetch it again."
            )
