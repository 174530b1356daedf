"""Repositories of the Hugging Face hub: fetched once, checked by hash, found offline afterwards."""

import contextlib
import errno
import logging
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from llm2clip_search.base.files import file_sha256
from llm2clip_search.encoders.cache import confirm_pinned, write_error
from llm2clip_search.errors import ModelError

logger = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubUnreachableError(ModelError):
    """The Hugging Face hub does not answer, or does not have what was asked for."""


def find_repository(repo: str, revision: str | None, needed: Sequence[str]) -> Path | None:
    """The folder of a repository in the hub's local cache; None if it or one of its ``needed`` files is missing.

    Args:
        needed: glob patterns, each of which must match a file; a bar separates alternatives.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return None if _missing(folder, needed) else folder


def fetch_repository(repo: str, revision: str | None, patterns: Sequence[str], *, needed: Sequence[str]) -> Path:
    """Find a repository in the local cache, or fetch its files that match ``patterns``; ``needed`` as above.

    Either way the large ones among these files are compared with their SHA-256.

    Raises:
        HubUnreachableError: the hub does not answer, or has no such repository.
        ModelError: a gated repository, a full disk, content with another hash, or a needed file that it lacks.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    name = f"hf:{repo}{'@' + revision if revision else ''}"
    if found := find_repository(repo, revision, needed):
        confirm_blobs(found, patterns)
        return found
    logger.info("Fetching %s from the Hugging Face hub (once) ...", repo)
    try:
        with _hub_output():
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is gated: the hub asks for a login and for its licence, at https://huggingface.co/{repo}, to be"
            " accepted.",
            hint=f"Accept the licence at https://huggingface.co/{repo}, then run 'hf auth login'.",
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            blobs = hub_cache() / f"models--{repo.replace('/', '--')}" / "blobs"
            for partial in blobs.glob("*.incomplete"):
                partial.unlink(missing_ok=True)
            raise write_error(name, hub_cache(), error) from error
        raise HubUnreachableError(
            f"{name} is not in the local cache and could not be fetched from the Hugging Face hub"
            f" ({type(error).__name__}).",
            hint=f"Run 'hf download {repo}{' --revision ' + revision if revision else ''}' on a machine that reaches"
            f" the hub and copy its cache to {hub_cache()}, or copy the files and name their folder with dir:PATH.",
        ) from error
    _verify_blobs(folder)
    if missing := _missing(folder, needed):
        wanted = " or ".join(missing).replace("|", " or ")
        raise ModelError(
            f"{name} holds no {wanted}, and pickles (.bin, .pt) are not loaded from the hub.",
            hint="A state dict of LLM2CLIP's training repository can be downloaded and converted to a model folder with"
            " 'llm2clip-search models convert FILE FOLDER', which reads nothing but tensors from it.",
        )
    return folder


@contextlib.contextmanager
def _hub_output() -> Iterator[None]:
    """The hub's client reports every retry, which our one error replaces; it draws its progress bars only where this
    package's INFO records are wanted."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    verbosity, drawn = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    hub_logging.set_verbosity(logging.ERROR)
    # The variable of this name decides wherever it is set, and the client warns of whoever tries to overrule it.
    if not logger.isEnabledFor(logging.INFO) and constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        disable_progress_bars()
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        if drawn:
            enable_progress_bars()


def hub_cache() -> Path:
    """Folder in which huggingface_hub keeps what it has fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def confirm_blobs(folder: Path, patterns: Sequence[str]) -> None:
    """Compare files of a repository in the local cache with the SHA-256 that the hub published for them.

    Those are known of large files, which weights are, and where the hub's client could make links.

    Args:
        folder: as `find_repository` gives it.
        patterns: glob patterns of those that will be loaded.

    Raises:
        ModelError: a file differs.
    """
    for path, blob in _blobs(folder):
        if any(fnmatch(path.relative_to(folder).as_posix(), pattern) for pattern in patterns):
            confirm_pinned(path, blob.name)


def _blobs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Large files of a repository, and what they link to: the hub's client names it by its SHA-256."""
    for path in folder.rglob("*"):
        blob = path.resolve()
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
            yield path, blob


def _missing(folder: Path, needed: Sequence[str]) -> list[str]:
    return [pattern for pattern in needed if not any(any(folder.glob(name)) for name in pattern.split("|"))]


def _verify_blobs(folder: Path) -> None:
    """Compare large files that have just been fetched with their SHA-256, and remove those that differ."""
    for path, blob in _blobs(folder):
        if (found := file_sha256(blob)) != blob.name:
            path.unlink()
            blob.unlink()
            raise ModelError(
                f"{path.name} from the hub has SHA-256 {found}, but {blob.name} is published; the damaged file was"
                " removed.",
                hint="Run the command again to fetch the file again.",
            )
