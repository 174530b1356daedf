"""Faults of the disk as sentences: what cannot be written or read, why, and what is kept."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm2clip_search.errors import DamagedError, StoreError, first_line

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
DAMAGE = frozenset({None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EIO})
"""Codes of reading that mean a lost or damaged file. Libraries that cannot make sense of one give no code."""


@contextmanager
def writing(path: Path, *, kept: str = "") -> Iterator[None]:
    """Turn the system's errors while a file or folder is written into one sentence.

    Args:
        path: named if the error itself names no file.
        kept: the end of the sentence: what is on disk all the same.

    Raises:
        StoreError: no space, no permission, a disk that fails or has gone.
    """
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno in NO_SPACE:
            hint = "Make room on that disk and run the command again; it goes on where it stopped."
        elif error.errno in REFUSED:
            hint = "Run it as the user who owns the index, or name another folder with --index."
        name = error.filename or path
        raise StoreError(f"{name} cannot be written: {first_line(error)}{kept}.", hint=hint) from error


def unreadable(path: Path, error: Exception) -> StoreError:
    """The error to raise for a file that another library could not read.

    It is a `DamagedError` unless the file may be sound and cannot be reached: no permission, too many open files.
    """
    message = f"{path} cannot be read: {first_line(error)}."
    if isinstance(error, OSError) and error.errno not in DAMAGE:
        hint = "Run it as the user who owns the index." if error.errno in REFUSED else ""
        return StoreError(message, hint=hint)
    return DamagedError(message)
