"""What an index is made from: sources that move, vanish and are forgotten, and an index that moves away from them."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.corpora import Corpus
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.errors import CorpusError, StoreError
from llm2clip_search.indexers.plan import folder_of, is_folder_source
from llm2clip_search.store import Manifest, Snapshot, SourceEntry, Writer
from llm2clip_search.store.moving import move_paths
from llm2clip_search.store.names import decode, encode
from llm2clip_search.store.paths import PathChange, as_mask
from llm2clip_search.store.snapshot import is_uri
from llm2clip_search.store.stranded import change_of_base, stranded_sources

State = Literal["present", "missing", "empty", "moved", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of an index, and what has become of it."""

    uri: str
    """Absolute path of its folder, or its URI."""
    rows: int
    """Rows of it; a row below several sources counts for the innermost one."""
    failures: int
    state: State
    """``missing``: there is no such folder; ``empty``: there is nothing in it, as in a mount point without its disk;
    ``moved``: the index has moved, and the folder is where it was; ``unknown``: not a folder of this machine."""
    exclude: tuple[str, ...] = ()
    everything: bool = False
    modality: str = "image"
    options: dict[str, Any] = field(default_factory=dict)
    """How else it is read, as `SourceOptions` says it."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def open_sources(
    names: Iterable[str | os.PathLike[str]],
    snapshot: Snapshot | None,
    options: SourceOptions = SourceOptions(),
    *,
    given: Collection[str] = (),
) -> list[Corpus]:
    """Corpora as an index reads them: what is not given is as the index remembers it.

    A folder or file within a folder that is a source of the index, if nothing else is asked for, is read as a part of
    that source: with its patterns.

    Args:
        names: as for `open_corpora`.
        snapshot: the index; None for a new one.
        given: names of the options that the caller gives; the others may be remembered.

    Raises:
        CorpusError: as `open_corpora`.
    """
    if snapshot is None:
        return open_corpora(names, options)
    known = {(source.uri, source.modality): source for source in snapshot.manifest.sources}
    for source in stranded_sources(snapshot):  # the next run follows them
        place = encode(str(Path(snapshot.manifest.base) / decode(source.uri)))
        known[place, source.modality] = known.pop((source.uri, source.modality))

    def settle(uri: str, asked: SourceOptions) -> tuple[SourceOptions, str]:
        stored = snapshot.stored(uri)
        if (own := known.get((stored, asked.modality))) is not None:
            return _as_remembered(own, asked, given), ""
        if is_uri(uri) or {"exclude", "everything"} & {*given}:
            return asked, ""
        around = [each for each in known.values() if is_folder_source(each) and snapshot.is_under(stored, each.uri)]
        for source in sorted(around, key=lambda each: len(snapshot.located(each.uri)), reverse=True):
            whole, part = folder_of(snapshot, source), Path(snapshot.located(stored))
            if source.modality == asked.modality and whole.covers(part, is_folder=not part.is_file()):
                return _as_remembered(source, asked, given), str(whole.root)
        return asked, ""

    return open_corpora(names, options, settle=settle)


def open_source(
    name: str | os.PathLike[str],
    snapshot: Snapshot | None,
    *,
    exclude: Sequence[str] | None = None,
    everything: bool | None = None,
) -> Corpus:
    """`open_sources` of one folder or corpus; None stands for what the index remembers."""
    given = {"exclude": exclude, "everything": everything}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if exclude is not None:
        values["exclude"] = tuple(exclude)
    [corpus] = open_sources([name], snapshot, SourceOptions(**values), given=values)
    return corpus


def _as_remembered(source: SourceEntry, asked: SourceOptions, given: Collection[str]) -> SourceOptions:
    """How a source was read, but for what is given now."""
    remembered = SourceOptions.from_dict(source.options)
    # Nothing in a file of lines says that it is a list; what everything else is can be seen, and may have changed.
    kind = asked.kind or ("list" if remembered.kind == "list" else None)
    remembered = replace(
        remembered, exclude=source.exclude, everything=source.everything, modality=asked.modality, kind=kind
    )
    return replace(remembered, **{name: getattr(asked, name) for name in given})


def list_sources(index: str | os.PathLike[str] | Snapshot) -> list[Source]:
    """The sources of an index, with the number of their rows. Reads the paths of all rows.

    Raises:
        StoreError: there is no index.
    """
    snapshot = index if isinstance(index, Snapshot) else Snapshot(Path(index))
    sources = snapshot.manifest.sources
    inner_first = sorted(sources, key=lambda each: len(snapshot.located(each.uri)), reverse=True)
    rows = dict.fromkeys(sources, 0)
    for table in _live_rows(snapshot):
        left = np.ones(len(table), dtype=bool)
        for source in inner_first:
            own = left & _of_source(snapshot, table, source.uri)
            if {each.modality for each in sources} != {source.modality}:
                own &= _are_texts(table) == (source.modality == "text")
            rows[source] += int(own.sum())
            left &= ~own
    failures = dict.fromkeys(sources, 0)
    for row in snapshot.failures():
        for source in inner_first:
            if row.get("corpus") == source.uri or snapshot.is_under(row["path"], source.uri):
                failures[source] += 1
                break
    stranded = stranded_sources(snapshot)
    return [
        Source(
            uri=snapshot.located(source.uri),
            rows=rows[source],
            failures=failures[source],
            state="moved" if source in stranded else source_state(snapshot, source),
            exclude=source.exclude,
            everything=source.everything,
            modality=source.modality,
            options=source.options,
        )
        for source in sources
    ]


def source_state(snapshot: Snapshot, source: SourceEntry) -> State:
    """What has become of a source, as far as a look at its folder, or its list, tells."""
    if is_uri(source.uri):
        return "unknown"
    place = Path(snapshot.located(source.uri))
    try:
        if place.is_file():
            return "present"
        with os.scandir(place) as entries:
            return "present" if next(entries, None) is not None else "empty"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError:
        return "unknown"


def forget_source(index: str | os.PathLike[str], uri: str) -> int:
    """Remove the rows, failures and sources at and below a path or URI from an index; whether it exists is no matter.

    Returns:
        Rows that were removed.

    Raises:
        StoreError: the index has nothing there.
    """
    folder = Path(index)
    manifest = Manifest.read(folder)
    with Writer.open(folder, model=manifest.model, dim=manifest.dim) as writer:
        snapshot = writer.snapshot
        root = snapshot.stored(uri)
        removed = _rows_of(snapshot, root)
        kept = [source for source in writer.manifest.sources if not snapshot.is_under(source.uri, root)]
        if not len(removed) and len(kept) == len(writer.manifest.sources):
            raise _unknown(snapshot, uri)
        writer.commit(removed=removed)
        writer.record_failures([], under=root)
        containers = snapshot.containers()
        writer.record_containers(containers.filter(pa.array(~snapshot.below(containers.column("path"), root))))
        writer.set_sources(kept, base=_settled_base(writer.snapshot))
    return len(removed)


def move_source(index: str | os.PathLike[str], old: str, new: str) -> int:
    """Follow a folder that has moved: paths at and below ``old`` become paths below ``new``; no image is read.

    Ids and vectors stay. ``old`` may be a source, a folder within one, or a folder around several.

    Returns:
        Rows that have another path now.

    Raises:
        CorpusError: there is no folder ``new``.
        StoreError: the index has nothing at ``old``.
    """
    if not is_uri(new) and not Path(new).exists():
        raise CorpusError(f"There is no folder {new}.")
    folder = Path(index)
    manifest = Manifest.read(folder)
    with Writer.open(folder, model=manifest.model, dim=manifest.dim) as writer:
        snapshot = writer.snapshot
        root, target = snapshot.stored(old), snapshot.stored(new)
        known = any(snapshot.is_under(source.uri, root) for source in manifest.sources)
        if not known and not len(_rows_of(snapshot, root)):
            raise _unknown(snapshot, old)
        around = next((each for each in manifest.sources if snapshot.is_under(root, each.uri)), None)
        move = (snapshot.located(root), snapshot.located(target))
        moved = move_paths(writer, PathChange(before=snapshot.base, after=snapshot.base, moves=(move,)))
        sources = list(writer.manifest.sources)
        if around is not None and not any(snapshot.is_under(target, each.uri) for each in sources):
            sources.append(replace(around, uri=target))  # a part that has left its source is one by itself
        writer.set_sources(sources, base=_settled_base(writer.snapshot))
    return moved


def follow_base(writer: Writer) -> str:
    """Bring the paths of an index up to date that lies in another folder than before.

    If its images moved with it, relative paths are right already. If they did not, paths lead to where they are.

    Returns:
        The folder it lay in before, if its images are still there; otherwise an empty string.
    """
    snapshot, old = writer.snapshot, writer.manifest.base
    if old == snapshot.base.as_posix():
        return ""
    stranded = stranded_sources(snapshot)
    move_paths(writer, change_of_base(snapshot, snapshot.base), base=snapshot.base.as_posix())
    return old if stranded else ""


def check_missing(writer: Writer) -> dict[str, int]:
    """Rows of sources whose folder or list is missing, by source; one of which no row is left is forgotten.

    Paths of rows are read only if one is missing.
    """
    snapshot = writer.snapshot
    missing = [each for each in writer.manifest.sources if source_state(snapshot, each) == "missing"]
    counts = dict.fromkeys(missing, 0)
    for table in _live_rows(snapshot) if missing else ():
        for source in missing:
            counts[source] += int(_of_source(snapshot, table, source.uri).sum())
    if found_elsewhere := [source for source, count in counts.items() if not count]:
        for source in found_elsewhere:
            writer.record_failures([], under=source.uri)
        kept = [each for each in writer.manifest.sources if each not in found_elsewhere]
        writer.set_sources(kept, base=writer.manifest.base)
    return {snapshot.located(source.uri): count for source, count in counts.items() if count}


def _settled_base(snapshot: Snapshot) -> str:
    return snapshot.manifest.base if stranded_sources(snapshot) else snapshot.base.as_posix()


def _live_rows(snapshot: Snapshot) -> Iterator[pa.Table]:
    """What tells the sources of the live rows, in row order, one shard at a time."""
    for shard in snapshot.shards:
        table = shard.read(["id", "path", "corpus", "modality"])
        yield table.take(pa.array(shard.live_rows)) if len(shard.dead) else table


def _of_source(snapshot: Snapshot, table: pa.Table, root: str) -> np.ndarray:
    """Which rows lie at or below a stored path, or were brought along by the source of that name: bool ``[n]``."""
    below = snapshot.below(table.column("path"), root)
    if "corpus" not in table.column_names:  # schema 1
        return below
    below |= as_mask(pc.fill_null(pc.equal(table.column("corpus"), root), fill_value=False))
    return below


def _are_texts(table: pa.Table) -> np.ndarray:
    """bool ``[n]``."""
    if "modality" not in table.column_names:
        return np.zeros(len(table), dtype=bool)
    return as_mask(pc.fill_null(pc.equal(table.column("modality"), "text"), fill_value=False))


def _rows_of(snapshot: Snapshot, root: str) -> np.ndarray:
    """Ids of the live rows of a source, or at and below a stored path, int64."""
    tables = _live_rows(snapshot)
    found = [table.column("id").to_numpy()[_of_source(snapshot, table, root)] for table in tables]
    ids: np.ndarray = np.concatenate([*found, np.empty(0, dtype=np.int64)])
    return ids


def _unknown(snapshot: Snapshot, uri: str) -> StoreError:
    known = ", ".join(snapshot.located(source.uri) for source in snapshot.manifest.sources)
    return StoreError(
        f"The index {snapshot.folder} has nothing below {snapshot.located(snapshot.stored(uri))}.",
        hint=f"It is made from {known}." if known else "",
    )
