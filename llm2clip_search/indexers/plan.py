"""Planning an index run: which items of a corpus are new or changed, and which rows have lost their item."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.corpora import Corpus, FolderCorpus, Item
from llm2clip_search.corpora.columns import digest
from llm2clip_search.corpora.containers import container_uri
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.corpora.files import files_of
from llm2clip_search.corpora.joined import JoinedCorpus
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers.known import Completed, KnownRows
from llm2clip_search.indexers.listing import Judge
from llm2clip_search.store import Snapshot, SourceEntry
from llm2clip_search.store.paths import as_mask
from llm2clip_search.store.snapshot import is_uri

HELD_ITEMS = 500_000
"""Up to this many changed items are held in memory; if there are more, the corpus is listed a second time instead."""


@dataclass(kw_only=True)
class IndexPlan:
    """What a run has to do, judged without reading any item."""

    root: str
    """The corpus as the metadata writes it."""
    owner: str
    """The source that the rows belong to: the corpus, or the one that it is a part of."""
    source: SourceEntry | None
    """What the index shall remember of the corpus; None for a part of another source."""
    modality: Modality = "image"
    """What the items are; rows of the other kind are none of this run's business."""
    is_partial: bool = False
    judge: Judge
    """Tells which parts of containers have to be read."""
    items: Iterable[Item]
    """Items to read: new ones, those whose version or description differs from their row, and containers that are new,
    changed, or were not read to their end."""
    changed: int = 0
    """How many these are."""
    unchanged: int = 0
    gone: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Rows of this corpus whose item is no longer there, positions in ``known``."""
    vacant: dict[str, np.ndarray] = field(default_factory=dict)
    """Rows below parts that hold nothing any more, which are kept: positions in ``known`` by the part's URI."""

    @property
    def known(self) -> KnownRows:
        """Live rows of the whole index."""
        return self.judge.known

    @property
    def completed(self) -> Completed:
        """Containers that earlier runs have read to their end."""
        return self.judge.completed

    @property
    def is_empty(self) -> bool:
        """True if the corpus has no item at all."""
        return not self.changed + self.unchanged


def plan_update(snapshot: Snapshot, corpus: Corpus, *, rehash: bool = False, forget: bool = False) -> IndexPlan:
    """Compare a corpus with what an index knows of it.

    Args:
        rehash: read every item, whatever its version says.
        forget: count rows below vacant parts as gone.

    Raises:
        CorpusError: no such corpus.
    """
    root = snapshot.stored(corpus.uri)
    owner = snapshot.stored(corpus.part_of) if corpus.part_of else root
    known, completed = KnownRows(snapshot), Completed(snapshot.containers())
    manner = {name: value for name, value in corpus.options.items() if name != "kind"}
    manner |= {"everything": True} if corpus.everything else {}  # of archives, hidden members too
    judge = Judge(
        snapshot.stored,
        known,
        completed,
        corpus.modality,
        sees_sidecars=corpus.sees_sidecars,
        sees_tables=corpus.options.get("metadata") == "",
        rehash=rehash,
        manner=f"+{digest(manner)}" if manner else "",
    )
    plan = IndexPlan(root=root, owner=owner, source=None, judge=judge, items=())
    plan.modality, plan.is_partial = corpus.modality, corpus.is_partial
    held: list[Item] = []
    for item in corpus.items():
        rows = judge.unchanged(item)
        if rows is not None:
            plan.unchanged += len(rows)
            continue
        plan.changed += 1
        if plan.changed <= HELD_ITEMS:
            held.append(item)
    plan.items = held if plan.changed <= HELD_ITEMS else _Changed(corpus, judge)
    mounts = next((each.mounts for each in snapshot.manifest.sources if each.uri == owner), ())
    unmounted = {each: snapshot.located(each) for each in mounts if is_lost(snapshot.located(each))}
    vacant = {**{snapshot.stored(uri): uri for uri in corpus.vacant()}, **unmounted}
    plan.gone = _gone(snapshot, corpus, plan, vacant, forget=forget)
    if not corpus.part_of:
        kept = [each for each, uri in unmounted.items() if uri in plan.vacant]
        plan.source = SourceEntry(
            uri=root,
            exclude=tuple(corpus.exclude),
            everything=corpus.everything,
            modality=corpus.modality,
            options=dict(corpus.options),
            mounts=(*(snapshot.stored(uri) for uri in corpus.mounts()), *kept),
        )
    return plan


@dataclass
class _Changed:
    """The changed items of a corpus, listed again."""

    corpus: Corpus
    judge: Judge

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self.corpus.items() if self.judge.unchanged(item) is None)


def _gone(
    snapshot: Snapshot, corpus: Corpus, plan: IndexPlan, vacant: Mapping[str, str], *, forget: bool
) -> np.ndarray:
    """Rows of the corpus that no item or container stands for, but for those that are kept.

    Kept are rows below parts that could not be read, below parts that are vacant (URIs by stored path), rows of
    another source that lists the same file, and, if the corpus lists only some of its items, rows whose file is there.
    Only shards that hold a row without an item are read.
    """
    known = plan.known
    missing = np.flatnonzero(~known.present & ~known.awaited & (known.are_texts == (corpus.modality == "text")))
    ids = np.sort(known.ids[missing])
    unreadable = {snapshot.stored(uri) for uri in corpus.unreadable()}
    others = _overlapping(snapshot, corpus)
    is_lost_file = lru_cache(maxsize=4096)(lambda file: has_vanished(snapshot.located(file)))
    lost, below = list[np.ndarray](), defaultdict[str, list[int]](list)
    for shard in snapshot.shards:
        _, rows = shard.find(ids)
        if not len(rows):
            continue
        table = shard.read(["path", "corpus"]).take(pa.array(rows))
        paths = table.column("path")
        gone = np.flatnonzero(_belong(snapshot, corpus, plan, table))
        has_parts = pc.any(pc.match_substring(paths, "#")).as_py()
        if unreadable or vacant or others or corpus.is_partial or has_parts:
            kept = np.zeros(len(gone), dtype=bool)
            for number, path in enumerate(paths.take(pa.array(gone)).to_pylist()):
                file, of_file = file_and_part(snapshot, path)
                parts = _upward(file)
                part = next((each for each in parts if each in vacant), None)
                is_unlisted = corpus.is_partial or (bool(of_file) and not corpus.lists(snapshot.located(file)))
                if any(each in unreadable for each in parts) or (is_unlisted and not is_lost_file(file)):
                    kept[number] = True
                elif part is not None and _is_wanted(file, snapshot, corpus):
                    kept[number] = not forget
                    below[vacant[part]].append(shard.ids[rows[gone[number]]])
                else:
                    kept[number] = not is_uri(file) and _is_of_another(Path(snapshot.located(file)), others)
            gone = gone[~kept]
        lost.append(shard.ids[rows[gone]])
    if not forget:
        plan.vacant = {part: missing[np.isin(known.ids[missing], kept_ids)] for part, kept_ids in below.items()}
    return missing[np.isin(known.ids[missing], np.concatenate([*lost, np.empty(0, dtype=np.int64)]))]


def file_and_part(snapshot: Snapshot, path: str) -> tuple[str, str]:
    """As `container_uri`, of a stored path: the file as the index writes it, and which part of it."""
    file, part = container_uri(snapshot.located(path)) if "#" in path else (path, "")
    return (snapshot.stored(file), part) if part else (path, "")


def _belong(snapshot: Snapshot, corpus: Corpus, plan: IndexPlan, table: pa.Table) -> np.ndarray:
    """Which rows, with the columns ``path`` and ``corpus``, are the corpus's own: bool ``[n]``.

    A folder owns what lies below it, whichever source brought it along. The items of a list lie anywhere, and those of
    a corpus that lists some of a folder's files are told from the rest by the source that they came from.
    """
    below = snapshot.below(table.column("path"), plan.root)
    if corpus.part_of:
        return below
    if "corpus" not in table.column_names:  # schema 1, which had folders only
        return below & (not corpus.is_partial)
    brought = as_mask(pc.fill_null(pc.equal(table.column("corpus"), plan.owner), fill_value=False))
    return brought if corpus.is_partial else brought | below


def _upward(path: str) -> list[str]:
    """A stored path and all folders above it."""
    found = [path]
    while "/" in path:  # URIs too, which `PurePosixPath` would change
        path = path.rpartition("/")[0]
        found.append(path)
    return [*found, "."] if path else found


def _overlapping(snapshot: Snapshot, corpus: Corpus) -> list[FolderCorpus]:
    """Other sources of the index that are folders and may list the same files."""
    own = {snapshot.stored(uri) for uri in (corpus.uri, corpus.part_of) if uri}
    root = snapshot.stored(corpus.uri)
    return [
        folder_of(snapshot, other)
        for other in snapshot.manifest.sources
        if other.uri not in own
        and other.modality == corpus.modality
        and is_folder_source(other)
        and (_walked(corpus) is None or snapshot.is_under(other.uri, root) or snapshot.is_under(root, other.uri))
    ]


def folder_of(snapshot: Snapshot, source: SourceEntry) -> FolderCorpus:
    """A source that is a folder, as it was read."""
    return FolderCorpus(
        snapshot.located(source.uri),
        exclude=source.exclude,
        everything=source.everything,
        options=replace(
            SourceOptions.from_dict(source.options), modality="text" if source.modality == "text" else "image"
        ),
    )


def is_folder_source(source: SourceEntry) -> bool:
    """True for a folder of this machine whose files the index lists."""
    return not is_uri(source.uri) and source.options.get("kind", "folder") == "folder"


def _is_wanted(path: str, snapshot: Snapshot, corpus: Corpus) -> bool:
    """True unless a folder's patterns leave out a path."""
    folder = _walked(corpus)
    return folder is None or folder.covers(
        folder.root / Path(snapshot.located(path)).relative_to(snapshot.located(snapshot.stored(corpus.uri))),
        is_folder=False,
    )


def _walked(corpus: Corpus) -> FolderCorpus | None:
    """The folder of this machine that a corpus walks; None for any other."""
    inner = corpus.corpus if isinstance(corpus, JoinedCorpus) else corpus
    return inner if isinstance(inner, FolderCorpus) else None


def _is_of_another(path: Path, others: list[FolderCorpus]) -> bool:
    """True if a file is there and belongs to one of some sources."""
    return any(path.is_relative_to(other.root) and other.covers(path, is_folder=False) for other in others) and (
        not is_lost(path)
    )


def is_lost(path: str | os.PathLike[str]) -> bool:
    """True if there is no file any more; False if that cannot be told."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def has_vanished(file: str) -> bool:
    """True if a file of this machine or an object elsewhere is not there any more; False if that cannot be told."""
    if not is_uri(file):
        return is_lost(file)
    try:
        files_of(file).status(file)
    except FileNotFoundError:
        return True
    except (OSError, CorpusError):
        return False
    return False


def refuse_empty(corpus: Corpus, snapshot: Snapshot | None) -> None:
    """Raise the error of a corpus without items.

    Raises:
        CorpusError: always; it says what was skipped, and how many rows of the corpus the index keeps.
    """
    skipped = corpus.skipped()
    why = [f"looked for {corpus.looked_for()}", *skipped.reasons()]
    if parts := corpus.unreadable():
        why.append(f"{len(parts):,} folders or files could not be read")
    if skipped.excluded:
        why.append(f"{skipped.excluded:,} images and folders are excluded")
    kept, hint = "", skipped.hint()
    if not hint and (skipped.system or skipped.hidden):
        hint = "Use --all to read hidden files and system folders."
    if snapshot is not None:
        root = snapshot.stored(corpus.uri)
        rows = sum(int(snapshot.below(paths, root).sum()) for _, paths in snapshot.live_paths())
        if rows:
            # An unmounted disk looks like an emptied folder: forgetting its images would be a costly guess.
            kept = f"; the index keeps the {rows:,} it knows from there"
            hint = hint or "Use --forget to remove them from the index."
    raise CorpusError(f"There are no {corpus.modality}s in {corpus.uri} ({'; '.join(why)}){kept}.", hint=hint)
