"""Files matched by patterns with braces and ``*``, and the members of webdataset shards."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from llm2clip_search.errors import CorpusError

_PADDING = 1 << 20
"""Bytes behind the end of a shard that are looked at; programs fill up the last 10 KiB."""
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def expand_braces(pattern: str) -> list[str]:
    """Expand ``a{0..2}b{x,y}`` as bash does; leading zeros are kept, any other braces are taken literally.

    >>> expand_braces("s-{08..10}.tar")
    ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    match = _BRACES.search(pattern)
    if not match:
        return [pattern]
    first, last, listed = match.groups()
    if listed is not None:
        choices = listed.split(",")
    else:
        padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
        width = max(len(first), len(last)) if padded else 0
        step = 1 if int(first) <= int(last) else -1
        choices = [str(number).zfill(width) for number in range(int(first), int(last) + step, step)]
    rests = expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + choice + rest for choice in choices for rest in rests]


def find_files(root: Path, pattern: str) -> list[Path]:
    """Files and folders that match a pattern with braces and ``*``.

    Args:
        root: folder that a relative pattern starts from; an absolute pattern ignores it.

    Raises:
        CorpusError: nothing matches one of the expanded names.
    """
    found: list[Path] = []
    for name in expand_braces(pattern):
        anchor = Path(name).anchor
        base = Path(anchor) if anchor else root
        hits = sorted(base.glob(name.removeprefix(anchor))) if "*" in name else [root / name]
        if not hits or not all(hit.exists() for hit in hits):
            raise CorpusError(
                f"{root / name} does not exist.", hint="--data names the folder that a recipe's paths are relative to."
            )
        found += hits
    return found


def shard_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Regular files of a shard, in order.

    Raises:
        tarfile.ReadError: as of `all_members`.
    """
    return (member for member in all_members(tar) if member.isfile())


def all_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Everything that a shard holds, in order and in flat memory: `tarfile` would keep each of them.

    `tarfile` mistakes a damaged or missing header for the end of the archive. The real end is marked by a block of
    512 zeros, and nothing but zeros follow; both are checked, so that no member is lost unnoticed.

    Raises:
        tarfile.ReadError: the shard is damaged or cut off, and the last readable member is named; or another archive
            follows behind its end.
    """
    last, end = "its start", 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        if tar.offset <= end or member.size < 0:  # a damaged size leads back, and round and round
            raise tarfile.ReadError(f"it is damaged after {last}")
        last, end = repr(member.name), tar.offset
        yield member
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it is damaged or cut off after {last}")
    if tar.fileobj.read(_PADDING).strip(b"\0"):
        raise tarfile.ReadError(f"it ends after {last}, but more data follow, as if archives had been joined")
