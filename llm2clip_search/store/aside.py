"""Setting damaged files aside: they get a second name below ``damaged/``, so that nothing of them is ever deleted.

The first name stays until a commit no longer needs it, and the writer's sweep takes it away. So readers go on, and a
kill at any instant leaves the file in at least one place.
"""

import os
import shutil
from itertools import count
from pathlib import Path

from llm2clip_search.base.files import fsync_path
from llm2clip_search.store.faults import writing

DAMAGED = "damaged"
"""Folder in the index folder; nothing in it belongs to the index."""


def set_aside(folder: Path, path: Path) -> str:
    """Keep a file or folder of the index below ``damaged/``, by hard links where the file system has them.

    Returns:
        Its second name, relative to the index folder; one that is set aside already is found again.

    Raises:
        StoreError: it cannot be written.
    """
    kept = folder / DAMAGED
    with writing(kept):
        kept.mkdir(exist_ok=True)
        _remove_leftovers(kept)
        for number in count(1):
            name = path.name if number == 1 else f"{path.stem}-{number}{path.suffix}"
            if not (kept / name).exists():
                break
            if _is_same(path, kept / name):
                return f"{DAMAGED}/{name}"
        temporary = kept / f".{name}.{os.getpid()}.tmp"
        if path.is_dir():
            shutil.copytree(path, temporary, copy_function=_link)
            fsync_path(temporary)
        else:
            _link(str(path), str(temporary))
        temporary.rename(kept / name)
        fsync_path(kept)
    return f"{DAMAGED}/{name}"


def _remove_leftovers(kept: Path) -> None:
    """Remove what a killed `set_aside` was making; what it was made of is where it was."""
    for path in kept.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
    fsync_path(Path(target))


def _is_same(path: Path, other: Path) -> bool:
    """True if both are one file, or folders of the same files."""
    if not path.is_dir():
        return path.samefile(other)
    names = {each.name for each in path.iterdir()}
    return names == {each.name for each in other.iterdir()} and all(
        (path / name).samefile(other / name) for name in names
    )
