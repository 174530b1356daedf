"""Which files of an index are not what was committed, and how many images each of them affects.

A quick verification reads the files that may have changed since they were last compared with their checksums. A full
one reads all of them, and then looks at what they hold: a checksum also fits what was wrong when it was written.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm2clip_search.base.files import file_sha256
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.errors import DamagedError, StoreError, first_line
from llm2clip_search.store.checked import CheckedFiles
from llm2clip_search.store.contents import DamagedFile, damaged_contents
from llm2clip_search.store.faults import DAMAGE, unreadable
from llm2clip_search.store.lease import open_generation
from llm2clip_search.store.manifest import MANIFEST, SHARDS, Manifest
from llm2clip_search.store.schema import Failure, read_failures
from llm2clip_search.store.snapshot import ANN, FAILURES, index_folder
from llm2clip_search.store.tombstones import Tombstones


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a check of all files found."""

    index: str
    full: bool = False
    """Every file was read, and what it holds was checked."""
    files: int = 0
    bytes: int = 0
    """Their size."""
    read: int = 0
    """Files that were compared with their checksum; the others have not changed since that was done."""
    without_checksum: tuple[str, ...] = ()
    """Files of earlier versions, relative to the index folder, of which nobody can say whether they are as written."""
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


def verify_index(folder: Path, *, full: bool = False, progress: Progress = no_progress) -> Verification:
    """Compare the files of an index with their checksums; readers and writers are not disturbed.

    Args:
        full: compare all of them, not only those that may have changed since that was last done. Then look at what
            they hold, as `contents.damaged_contents` says.
        progress: called with ``megabytes``, and then with ``shards``.

    Raises:
        StoreError: there is no index, it is of a newer schema, or a file cannot be reached.
    """
    folder = index_folder(folder)
    try:
        manifest, lease = open_generation(folder)
    except DamagedError as error:
        reason = str(error).removeprefix(f"{folder / MANIFEST} ").rstrip(".")
        return Verification(
            index=str(folder),
            full=full,
            files=1,
            read=1,
            damaged=(DamagedFile(path=MANIFEST, reason=reason, images=None),),
        )
    try:
        return verify_files(folder, manifest, full=full, progress=progress)
    finally:
        if lease is not None:
            os.close(lease)


def verify_files(
    folder: Path, manifest: Manifest, *, full: bool = False, progress: Progress = no_progress
) -> Verification:
    """`verify_index` for a caller that holds the writer's lock, or a lease."""
    checked = CheckedFiles(folder)
    files = list(named_files(folder, manifest))
    unread = {file.path for file in files if not full and _is_known(checked, file)}
    sizes = {file.path: _size(file.path) for file in files}
    total, done = sum(size for path, size in sizes.items() if path not in unread) // 10**6, 0
    damaged = []
    for file in files:
        if file.path in unread:
            continue
        progress("megabytes", min(done // 10**6, total), total, {})
        if reason := _reason(file, checked):
            path = file.path.relative_to(folder).as_posix()
            damaged.append(DamagedFile(path=path, reason=reason, images=file.images))
        done += sizes[file.path]
    if reason := failures_reason(folder / FAILURES):
        damaged.append(DamagedFile(path=FAILURES, reason=reason, images=0))
    progress("megabytes", total, total, {})
    if full:
        damaged += damaged_contents(folder, manifest, {each.path for each in damaged}, progress=progress)
    return Verification(
        index=str(folder),
        full=full,
        files=len(files) + 1,
        bytes=sum(sizes.values()),
        read=len(files) + 1 - len(unread),
        without_checksum=tuple(file.path.relative_to(folder).as_posix() for file in files if file.sha256 is None),
        live=manifest.live,
        damaged=tuple(damaged),
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


def _is_known(checked: CheckedFiles, file: NamedFile) -> bool:
    """True if a file has not changed since it was compared with its checksum."""
    try:
        return file.sha256 is not None and checked.knows(file.path, file.sha256)
    except OSError:  # comparing it says what is wrong
        return False


def _reason(file: NamedFile, checked: CheckedFiles) -> str:
    """What is wrong with a file; empty if nothing is.

    Raises:
        StoreError: it cannot be reached, so nobody knows.
    """
    try:
        if not file.path.is_file():
            return "missing"
        if file.sha256 is not None:
            before = file.path.stat()
            if file_sha256(file.path) != file.sha256:
                return "differs from its checksum"
            checked.note({file.path: (file.sha256, before)})
    except OSError as error:
        if error.errno not in DAMAGE:
            raise unreadable(file.path, error) from error
        return first_line(error)
    return ""


def failures_reason(path: Path) -> str:
    """What is wrong with the list of failures, which has its own checksum; empty if it is sound or is not there."""
    try:
        if path.exists():
            for row in read_failures(path):
                Failure(**row)
    except (OSError, TypeError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno not in DAMAGE:
            raise unreadable(path, error) from error
        return "is not a list of failures"
    return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
