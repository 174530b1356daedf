"""Folders of tables: data sets that `datasets` has saved or cached, and repositories in the cache of the hub."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from llm2clip_search.corpora.table_formats import TABLE_SUFFIXES
from llm2clip_search.errors import CorpusError

Name = TypeVar("Name")
_BESIDE = (".md", ".json", ".lock", ".yaml", ".yml", ".py")
"""Ends of the names of files that lie beside tables and hold no items."""


def dataset_tables(folder: str | os.PathLike[str]) -> list[str]:
    """The tables of a folder that holds nothing else, in order; empty if it is another folder.

    Such a folder is what `datasets` writes with `save_to_disk` (a data set or a dictionary of splits), one of its cache
    (tables of mapped copies are left out), a repository in the hub's cache (the revision of ``main``, else the latest),
    or any folder with tables and their descriptions.

    Raises:
        CorpusError: a description of a data set cannot be read, or a table that it names is missing.
    """
    root = Path(folder)
    if (root / "snapshots").is_dir():
        root = _revision(root)
    if (root / "dataset_dict.json").is_file():
        splits = _described(root / "dataset_dict.json", lambda found: [str(split) for split in found["splits"]])
        return [table for split in splits for table in _saved(root / split)]
    if (root / "state.json").is_file():
        return _saved(root)
    if (root / "dataset_info.json").is_file():
        tables = sorted(path for path in root.glob("*.arrow") if not path.name.startswith(("cache-", "tmp")))
        return [str(path) for path in tables if "indices" not in path.stem]
    return _only_tables(root)


def _revision(repository: Path) -> Path:
    """The snapshot of a repository that ``main`` stands for; the one that was written last if it is not there."""
    main = repository / "refs" / "main"
    snapshots = [path for path in (repository / "snapshots").iterdir() if path.is_dir()]
    named = repository / "snapshots" / main.read_text("utf-8").strip() if main.is_file() else None
    if named is not None and named.is_dir():
        return named
    return max(snapshots, key=lambda path: path.stat().st_mtime_ns, default=repository)


def _saved(folder: Path) -> list[str]:
    """The tables that the state of a saved data set names, which need not be all that lie there."""
    state = folder / "state.json"
    tables = _described(state, lambda found: [folder / each["filename"] for each in found["_data_files"]])
    if lost := next((each for each in tables if not each.is_file()), None):
        raise CorpusError(f"{state} names {lost.name}, which is not there.")
    return [str(each) for each in tables]


def _described(file: Path, names: Callable[[Any], list[Name]]) -> list[Name]:
    """What the description of a data set names."""
    try:
        return names(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{file}, which describes a data set, cannot be read: {error!r}.") from error


def _only_tables(folder: Path) -> list[str]:
    """All tables at and below a folder; none as soon as there is a file of another kind."""
    found = []
    for path in _files(folder):
        if path.name.casefold().endswith(tuple(TABLE_SUFFIXES)):
            found.append(str(path))
        elif path.suffix.casefold() not in _BESIDE and path.stem.upper() not in ("LICENSE", "README"):
            return []
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder in the order of their names, without hidden ones."""
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(top, name) for name in sorted(names) if not name.startswith("."))
