"""Planning an index run: which items of a corpus are new or changed, and which rows have lost their item."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm2clip_search.corpora import Corpus, Item
from llm2clip_search.errors import CorpusError
from llm2clip_search.store import Snapshot

StoredRow = dict[str, Any]
"""A live row of the index, by the columns of `store.METADATA_SCHEMA`."""


@dataclass(kw_only=True)
class IndexPlan:
    """What a run has to do, judged without reading any item."""

    root: str
    """The corpus as the metadata writes it."""
    changed: list[Item] = field(default_factory=list)
    """Items to read: new ones, and those whose version differs from their row."""
    unchanged: int = 0
    known: dict[str, StoredRow] = field(default_factory=dict)
    """Live rows of the whole index by path."""
    by_hash: dict[str, StoredRow] = field(default_factory=dict)
    """Live rows of the whole index by content hash."""
    gone: dict[int, StoredRow] = field(default_factory=dict)
    """Rows of this corpus whose item is no longer there, by id."""


def plan_update(snapshot: Snapshot, corpus: Corpus, items: Sequence[Item]) -> IndexPlan:
    """Compare the items of a corpus with what an index knows of it."""
    rows: list[StoredRow] = snapshot.metadata().to_pylist()
    plan = IndexPlan(
        root=snapshot.stored(corpus.uri),
        known={row["path"]: row for row in rows},
        by_hash={row["content_hash"]: row for row in rows},
    )
    present: set[str] = set()
    for item in items:
        path = snapshot.stored(item.uri)
        present.add(path)
        row = plan.known.get(path)
        # Without a time an item cannot be known to be unchanged: its content hash decides.
        if row is not None and item.mtime_ns and (row["size"], row["mtime_ns"]) == (item.size, item.mtime_ns):
            plan.unchanged += 1
        else:
            plan.changed.append(item)
    unreadable = [snapshot.stored(uri) for uri in corpus.unreadable()]
    for path, row in plan.known.items():
        if path in present or not snapshot.is_under(path, plan.root):
            continue
        if not any(snapshot.is_under(path, part) for part in unreadable):
            plan.gone[row["id"]] = row
    return plan


def refuse_empty(corpus: Corpus, snapshot: Snapshot | None) -> None:
    """Raise the error of a corpus without items.

    Raises:
        CorpusError: always; it says how many rows of the corpus the index keeps.
    """
    parts = corpus.unreadable()
    why = f"; {len(parts)} folders could not be read" if parts else ""
    kept = ""
    if snapshot is not None:
        paths = snapshot.metadata().column("path").to_pylist()
        root = snapshot.stored(corpus.uri)
        rows = sum(snapshot.is_under(path, root) for path in paths)
        # An unmounted disk looks like an emptied folder: forgetting its images would be a costly guess.
        kept = f"; the index keeps the {rows} it knows from there" if rows else ""
    raise CorpusError(f"There are no images in {corpus.uri} (looked for {corpus.looked_for()}{why}){kept}.")
