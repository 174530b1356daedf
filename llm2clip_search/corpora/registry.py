"""Sources by name: folders, files and lists of this machine or elsewhere, and corpora that other packages add."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from glob import glob, has_magic
from pathlib import Path
from typing import cast

from llm2clip_search.base.plugins import Plugins
from llm2clip_search.corpora.addresses import withhold
from llm2clip_search.corpora.corpus import Corpus
from llm2clip_search.corpora.dataset_folders import dataset_tables
from llm2clip_search.corpora.folder import FolderCorpus
from llm2clip_search.corpora.kinds import kind_of
from llm2clip_search.corpora.named import NamedFiles
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.shards import expand_braces
from llm2clip_search.corpora.table_columns import kind_of_table
from llm2clip_search.errors import CorpusError

CORPUS_PLUGINS = Plugins("llm2clip_search.corpora")
"""Each entry point is named for a URI scheme and is a callable from a URI to a `Corpus`."""
STDIN = "-"
"""A source that is a list of paths and URLs on stdin."""

Settle = Callable[[str, SourceOptions], tuple[SourceOptions, str]]
"""From the URI of a source, and how it shall be read, to how it is read, and to the source that it is a part of."""


def open_corpus(source: str | os.PathLike[str], *, exclude: Sequence[str] = (), everything: bool = False) -> Corpus:
    """The corpus that one source names, as `open_corpora` reads it.

    Args:
        exclude: gitignore patterns, for folders only.
        everything: read hidden files and system folders too, of a folder.

    Raises:
        CorpusError: as `open_corpora`; patterns for what is not a folder.
    """
    [corpus] = open_corpora([source], SourceOptions(exclude=tuple(exclude), everything=everything))
    return corpus


def open_corpora(
    sources: Iterable[str | os.PathLike[str]],
    options: SourceOptions = SourceOptions(),
    *,
    settle: Settle = lambda uri, options: (options, ""),
) -> list[Corpus]:
    """The corpora that some sources name, each read when its `items` are.

    A source is a folder, a file, a pattern with braces and ``*`` such as ``shards/{000..099}.tar``, ``-`` for a list on
    stdin, or ``scheme://...``. What it is follows from its name and from what it holds, unless ``options.kind`` says
    it. Several named files of one folder are one corpus.

    Args:
        settle: called with the URI of each source.

    Raises:
        CorpusError: a source that is not there, that nothing here reads, or whose package is missing.
    """
    corpora: list[Corpus] = []
    named: dict[str, list[str]] = {}
    for source in sources:
        for place in map(withhold, _places(os.fspath(source), options)):
            opened = _open(place, options, settle)
            if isinstance(opened, str):
                named.setdefault(opened, []).append(place)
            else:
                corpora += opened
    for folder, files in named.items():
        is_one = len(set(files)) == 1
        uri = files[0] if is_one else folder
        settled, part_of = settle(uri, replace(options, kind=options.kind or "files"))
        corpora.append(NamedFiles(uri, files, options=settled, part_of=part_of, is_partial=not is_one))
    return [_joined(corpus) for corpus in corpora]


def _joined(corpus: Corpus) -> Corpus:
    """A corpus with the columns of the table that its options name."""
    options = SourceOptions.from_dict(dict(corpus.options))
    if not options.metadata:
        return corpus
    from llm2clip_search.corpora.joined import JoinedCorpus

    return JoinedCorpus(corpus, options.metadata, options.on, columns=options.columns)


def _places(source: str, options: SourceOptions) -> Iterator[str]:
    """The files, folders and URIs that a source stands for."""
    for name in [source] if _is_there(source) else expand_braces(source):
        if "://" in name:
            yield from _places_elsewhere(name, options)
        elif has_magic(name) and not _is_there(name):
            found = sorted(glob(os.path.expanduser(name), recursive=True))  # noqa: PTH111, PTH207 - patterns, not paths
            if not found:
                raise CorpusError(f"No file matches {name}.")
            yield from found
        else:
            yield name


def _places_elsewhere(name: str, options: SourceOptions) -> list[str]:
    if (
        "*" not in name
        or name.startswith(("http://", "https://"))
        or name.partition("://")[0] in CORPUS_PLUGINS.schemes()
    ):
        return [name]
    from llm2clip_search.corpora.remote import matching

    return matching(name, options)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a name that is too long, a parent that may not be entered
        raise CorpusError(f"{path} cannot be read: {error.strerror}.") from error


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:
        return False


def _open(place: str, options: SourceOptions, settle: Settle) -> list[Corpus] | str:
    """The corpora of one place; for a file that is named, the folder or prefix that it lies in."""
    scheme, separator, _ = place.partition("://")
    if separator and scheme in CORPUS_PLUGINS.schemes():
        _refuse_patterns(place, options)
        return [cast("Corpus", CORPUS_PLUGINS.load(scheme, place, error=CorpusError))]
    if place == STDIN:
        return [_open_list(place, options, settle)]
    return _open_remote(place, options, settle) if separator else _open_local(Path(place).expanduser(), options, settle)


def _open_local(path: Path, options: SourceOptions, settle: Settle) -> list[Corpus] | str:
    is_file = _is_file(path)
    if options.kind is None and is_file and settle(str(path), options)[0].kind == "list":
        return [_open_list(str(path), options, settle)]  # nothing in a file of lines says that it is one
    kind = options.kind if options.kind is not None and is_file else kind_of(path, options.modality)
    if options.kind is not None and kind not in ("folder", "tar", "table"):
        kind = options.kind
    if kind == "table" and path.is_dir():
        return _open_tables(path, options, settle)
    if kind == "list":
        return [_open_list(str(path), options, settle)]
    if kind in ("folder", "tar") and not is_file:
        chosen = replace(options, kind=options.kind or (None if kind == "folder" else kind))
        settled, part_of = settle(str(path), chosen)
        folder = FolderCorpus(
            os.path.abspath(path) if part_of else path,  # noqa: PTH100 - the patterns are relative to an absolute path
            exclude=settled.exclude,
            everything=settled.everything,
            options=settled,
            part_of=part_of or None,
        )
        return [folder]
    _refuse_patterns(str(path), options)
    return str(path.parent)


def _open_tables(folder: Path, options: SourceOptions, settle: Settle) -> list[Corpus]:
    """The tables of a folder: one corpus of those that hold items, and one of each that names images."""
    _refuse_patterns(str(folder), options)
    tables = dataset_tables(folder)
    lists = [table for table in tables if kind_of_table(table, options) == "list"]
    holding = [table for table in tables if table not in lists]
    corpora = [_open_list(table, options, settle) for table in lists]
    if holding:
        settled, part_of = settle(str(folder), replace(options, kind="table"))
        corpora.append(NamedFiles(str(folder), holding, options=settled, part_of=part_of, is_partial=False))
    return corpora


def _open_list(place: str, options: SourceOptions, settle: Settle) -> Corpus:
    from llm2clip_search.corpora.listed import ListCorpus

    _refuse_patterns(place, options)
    if place == STDIN:
        stdin = replace(options, kind="list")
        return ListCorpus(os.getcwd(), options=stdin, stream=sys.stdin.buffer)  # noqa: PTH109
    settled, _ = settle(place, replace(options, kind="list"))
    return ListCorpus(place, options=settled)


def _open_remote(place: str, options: SourceOptions, settle: Settle) -> list[Corpus] | str:
    from llm2clip_search.corpora.remote import RemoteFolder, kind_of_remote

    kind = "list" if options.kind == "list" else kind_of_remote(place, options)
    if kind == "list":
        return [_open_list(place, options, settle)]
    if kind != "files":
        chosen = replace(options, kind=options.kind or (None if kind == "folder" else kind))
        settled, _ = settle(place.rstrip("/"), chosen)
        return [RemoteFolder(place, options=settled)]
    _refuse_patterns(place, options)
    return place.rpartition("/")[0]


def _refuse_patterns(place: str, options: SourceOptions) -> None:
    if options.exclude:
        raise CorpusError(f"{place} is not a folder, so no patterns can be excluded from it.", hint="Omit --exclude.")
