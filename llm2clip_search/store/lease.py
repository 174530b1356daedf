"""Readers' leases: which generations of an index are open, so that a writer leaves their files in place.

A reader opens some files long after it read the manifest, such as the approximate index at its first approximate
search. By then later commits may have replaced them. A lease is a shared lock on ``readers/GENERATION``, which the
kernel drops when the process ends; the files need no content and are removed when nobody holds them.
"""

import contextlib
import os
from pathlib import Path

from llm2clip_search.store.manifest import Manifest

READERS = "readers"


def open_generation(folder: Path) -> tuple[Manifest, int | None]:
    """Read the manifest and hold a lease on its generation.

    Returns:
        The manifest and the lease, a file descriptor to close. None where leases do not work: the folder is
        read-only, or the system has no ``flock`` (Windows, which does not delete open files either).

    Raises:
        StoreError: as `Manifest.read`.
    """
    while True:
        manifest = Manifest.read(folder)
        lease = _lease(folder / READERS / f"{manifest.generation:08d}")
        if lease is None or Manifest.read(folder).generation == manifest.generation:
            return manifest, lease
        os.close(lease)  # a commit came in between, and its files may be gone already


def oldest_lease(folder: Path) -> int | None:
    """The lowest generation that a reader has open; None if there is none. Leases that nobody holds are removed."""
    held: list[int] = []
    for path in sorted((folder / READERS).glob("*")):
        if not path.name.isdecimal():
            continue
        if not _remove_unless_held(path):
            held.append(int(path.name))
    return min(held, default=None)


def _lease(path: Path) -> int | None:
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        try:
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
            with contextlib.suppress(OSError):  # another user's, who has done the same
                os.fchmod(descriptor, 0o666)  # whatever the umask: a writer of another user has to look at it
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:  # a writer removed the file before it was locked
            pass
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)


def _remove_unless_held(path: Path) -> bool:
    """Remove a lease that nobody holds; False if somebody does, or if that cannot be found out."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        descriptor = _open_to_lock(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # While it is locked: a reader that has opened the file sees afterwards that it is gone.
        with contextlib.suppress(OSError):  # it may belong to another user, and is in nobody's way
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _open_to_lock(path: Path) -> int:
    """Open a lease for an exclusive lock, which takes the right to write on NFS, and elsewhere none."""
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)
