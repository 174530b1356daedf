"""Which files of an index are not what was committed, and how many images each of them affects."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.base.files import file_sha256
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.errors import DamagedError, StoreError, first_line
from llm2clip_search.store.faults import DAMAGE, unreadable
from llm2clip_search.store.lease import open_generation
from llm2clip_search.store.manifest import MANIFEST, SHARDS, Manifest
from llm2clip_search.store.schema import FAILURE_SCHEMA
from llm2clip_search.store.snapshot import ANN, FAILURES, index_folder
from llm2clip_search.store.tombstones import Tombstones


@dataclass(frozen=True, kw_only=True)
class DamagedFile:
    """A file that is missing or that differs from what was committed."""

    path: str
    """Relative to the index folder, posix."""
    reason: str
    """``missing``, or what is wrong with it."""
    images: int | None
    """Live rows of its shard; for tombstones, deleted rows that may come back; 0 if searches do not need it. None for
    the manifest, which alone counts images."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a check of all files found."""

    index: str
    files: int = 0
    """Files that were compared with their checksum."""
    bytes: int = 0
    """Their size."""
    live: int = 0
    """Images of the index, as the manifest says."""
    damaged: tuple[DamagedFile, ...] = field(default=())

    @property
    def affected(self) -> int:
        """Images of damaged shards, each counted once."""
        by_shard = {each.path.split("/")[1]: each.images or 0 for each in self.damaged if each.path.startswith(SHARDS)}
        return sum(by_shard.values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "affected": self.affected}


@dataclass(frozen=True, kw_only=True)
class NamedFile:
    """A file that a manifest names."""

    path: Path
    sha256: str | None
    """None if an earlier version wrote it without one: then it need only be there."""
    images: int


def verify_index(folder: Path, *, progress: Progress = no_progress) -> Verification:
    """Compare every file of an index with its checksum; readers and writers are not disturbed.

    Args:
        progress: called with ``megabytes``.

    Raises:
        StoreError: there is no index, it is of a newer schema, or a file cannot be reached.
    """
    folder = index_folder(folder)
    try:
        manifest, lease = open_generation(folder)
    except DamagedError as error:
        reason = str(error).removeprefix(f"{folder / MANIFEST} ").rstrip(".")
        return Verification(
            index=str(folder), files=1, damaged=(DamagedFile(path=MANIFEST, reason=reason, images=None),)
        )
    try:
        return verify_files(folder, manifest, progress=progress)
    finally:
        if lease is not None:
            os.close(lease)


def verify_files(folder: Path, manifest: Manifest, *, progress: Progress = no_progress) -> Verification:
    """`verify_index` for a caller that holds the writer's lock, or a lease."""
    files = list(named_files(folder, manifest))
    sizes = [_size(file.path) for file in files]
    total, done = sum(sizes) // 10**6, 0
    damaged = []
    for file, size in zip(files, sizes, strict=True):
        progress("megabytes", min(done // 10**6, total), total, {})
        if reason := _reason(file):
            path = file.path.relative_to(folder).as_posix()
            damaged.append(DamagedFile(path=path, reason=reason, images=file.images))
        done += size
    if reason := failures_reason(folder / FAILURES):
        damaged.append(DamagedFile(path=FAILURES, reason=reason, images=0))
    progress("megabytes", total, total, {})
    return Verification(
        index=str(folder), files=len(files) + 1, bytes=sum(sizes), live=manifest.live, damaged=tuple(damaged)
    )


def named_files(folder: Path, manifest: Manifest) -> Iterator[NamedFile]:
    """The files that a manifest names, tombstones first."""
    tombstones = Tombstones()
    if manifest.tombstones is not None:
        path = folder / manifest.tombstones
        yield NamedFile(path=path, sha256=manifest.tombstones_sha256, images=manifest.dead)
        with suppress(StoreError):  # it is found damaged itself; until it is mended, all rows count
            tombstones = Tombstones.read(path, manifest.tombstones_sha256)
    for entry in manifest.shards:
        live = entry.rows - len(tombstones.of(entry.name))
        for name, sha256 in entry.sha256.items():
            yield NamedFile(path=folder / SHARDS / entry.name / name, sha256=sha256, images=live)
    if manifest.ann is not None:
        yield NamedFile(path=folder / ANN / manifest.ann.name, sha256=manifest.ann.sha256, images=0)


def _reason(file: NamedFile) -> str:
    """What is wrong with a file; empty if nothing is.

    Raises:
        StoreError: it cannot be reached, so nobody knows.
    """
    try:
        if not file.path.is_file():
            return "missing"
        if file.sha256 is not None and file_sha256(file.path) != file.sha256:
            return "differs from its checksum"
    except OSError as error:
        if error.errno not in DAMAGE:
            raise unreadable(file.path, error) from error
        return first_line(error)
    return ""


def failures_reason(path: Path) -> str:
    """What is wrong with the list of failures, which has no checksum; empty if it is sound or is not there."""
    try:
        if path.exists():
            pq.read_table(path, schema=FAILURE_SCHEMA).validate(full=True)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno not in DAMAGE:
            raise unreadable(path, error) from error
        return "is not a list of failures"
    return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
