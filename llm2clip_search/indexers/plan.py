"""Planning an index run: which items of a corpus are new or changed, and which rows have lost their item."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from llm2clip_search.corpora import Corpus, Item
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers.known import KnownRows
from llm2clip_search.store import Snapshot

HELD_ITEMS = 500_000
"""Up to this many changed items are held in memory; if there are more, the corpus is listed a second time instead."""


@dataclass(kw_only=True)
class IndexPlan:
    """What a run has to do, judged without reading any item."""

    root: str
    """The corpus as the metadata writes it."""
    known: KnownRows
    """Live rows of the whole index."""
    items: Iterable[Item]
    """Items to read: new ones, and those whose version differs from their row."""
    changed: int = 0
    """How many these are."""
    unchanged: int = 0
    gone: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Rows of this corpus whose item is no longer there, positions in ``known``."""

    @property
    def is_empty(self) -> bool:
        """True if the corpus has no item at all."""
        return not self.changed + self.unchanged


def plan_update(snapshot: Snapshot, corpus: Corpus) -> IndexPlan:
    """Compare a corpus with what an index knows of it.

    Raises:
        CorpusError: no such corpus.
    """
    known = KnownRows(snapshot)
    plan = IndexPlan(root=snapshot.stored(corpus.uri), known=known, items=())
    held: list[Item] = []
    for item in corpus.items():
        row = known.find(snapshot.stored(item.uri))
        if row >= 0:
            known.present[row] = True
            if known.is_unchanged(row, item):
                plan.unchanged += 1
                continue
        plan.changed += 1
        if plan.changed <= HELD_ITEMS:
            held.append(item)
    plan.items = held if plan.changed <= HELD_ITEMS else _Changed(snapshot, corpus, known)
    plan.gone = _gone(snapshot, corpus, known)
    return plan


@dataclass
class _Changed:
    """The changed items of a corpus, listed again."""

    snapshot: Snapshot
    corpus: Corpus
    known: KnownRows

    def __iter__(self) -> Iterator[Item]:
        for item in self.corpus.items():
            row = self.known.find(self.snapshot.stored(item.uri))
            if row < 0 or not self.known.is_unchanged(row, item):
                yield item


def _gone(snapshot: Snapshot, corpus: Corpus, known: KnownRows) -> np.ndarray:
    """Rows below the corpus that no item stands for, but for those below parts that could not be read."""
    missing = np.flatnonzero(~known.present)
    ids = np.sort(known.ids[missing])
    root, unreadable = snapshot.stored(corpus.uri), [snapshot.stored(uri) for uri in corpus.unreadable()]
    lost: set[int] = set()
    for shard in snapshot.shards:
        _, rows = shard.find(ids)
        if not len(rows):
            continue
        paths = shard.read(["path"]).column("path").take(pa.array(rows)).to_pylist()
        for identifier, path in zip(shard.ids[rows].tolist(), paths, strict=True):
            if snapshot.is_under(path, root) and not any(snapshot.is_under(path, part) for part in unreadable):
                lost.add(identifier)
    return missing[np.isin(known.ids[missing], np.fromiter(lost, dtype=np.int64, count=len(lost)))]


def refuse_empty(corpus: Corpus, snapshot: Snapshot | None) -> None:
    """Raise the error of a corpus without items.

    Raises:
        CorpusError: always; it says how many rows of the corpus the index keeps.
    """
    parts = corpus.unreadable()
    why = f"; {len(parts)} folders could not be read" if parts else ""
    kept = ""
    if snapshot is not None:
        root = snapshot.stored(corpus.uri)
        paths = (path for shard in snapshot.shards for path in _live_paths(shard.read(["path"]), shard.live_rows))
        rows = sum(snapshot.is_under(path, root) for path in paths)
        # An unmounted disk looks like an emptied folder: forgetting its images would be a costly guess.
        kept = f"; the index keeps the {rows} it knows from there" if rows else ""
    raise CorpusError(f"There are no images in {corpus.uri} (looked for {corpus.looked_for()}{why}){kept}.")


def _live_paths(table: pa.Table, rows: np.ndarray) -> list[str]:
    paths: list[str] = table.column("path").take(pa.array(rows)).to_pylist()
    return paths
