"""Committing embedded items: which id each row gets, which rows are replaced or removed, and when to write."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from llm2clip_search.corpora.decode import Decoded, ImageFacts
from llm2clip_search.errors import ImageError
from llm2clip_search.indexers.known import content_key
from llm2clip_search.indexers.plan import IndexPlan
from llm2clip_search.store import Row, Writer
from llm2clip_search.store.compaction import compact
from llm2clip_search.store.schema import Failure

_FACTS = tuple(each.name for each in fields(ImageFacts))


@dataclass(slots=True)
class _Ready:
    """A row waiting for its commit: embedded, or with the id of a row whose content it shares."""

    path: str
    decoded: Decoded
    id: int | None = None
    """Of the row, if it keeps one."""
    twin: int | None = None
    """Id of the row that its vector and facts are taken from."""


class Committer:
    """Turns the results of one run into rows and commits them from time to time."""

    def __init__(self, writer: Writer, plan: IndexPlan, *, rows_per_commit: int, seconds_per_commit: float) -> None:
        self.writer, self.plan = writer, plan
        self.rows_per_commit, self.seconds_per_commit = rows_per_commit, seconds_per_commit
        self.indexed = 0
        """Items embedded in this run."""
        self.reused = 0
        """Items whose content was in the index: renamed, copied, or touched without change."""
        self.unchanged = plan.unchanged
        """Items that are as their row says, by their version or after they were read."""
        self.failures: list[Failure] = []
        self.seconds = 0.0
        """Spent on writing."""
        # Vectors and facts of known content come from here: a later commit may remove the row that has them.
        self._before = writer.snapshot
        known = plan.known
        self._gone = set(known.ids[plan.gone].tolist())
        self._moved_from = dict(zip(known.contents[plan.gone].tolist(), known.ids[plan.gone].tolist(), strict=True))
        self._ready: list[_Ready] = []
        self._removed: set[int] = set()
        self._committed = time.monotonic()

    @property
    def removed(self) -> int:
        """Rows whose item is gone and was not found again elsewhere."""
        return len(self._gone)

    def take(self, decoded: Decoded) -> None:
        """Add one item: failed, of known content, or with a fresh vector. Commits when it is time."""
        path = self.writer.snapshot.stored(decoded.item.uri)
        if decoded.error is not None:
            self._fail(path, decoded.error)
        elif decoded.vector is not None:
            self._add(path, decoded)
        else:
            self._reuse(path, decoded)
        waited = time.monotonic() - self._committed > self.seconds_per_commit
        if len(self._ready) >= self.rows_per_commit or (waited and self._ready):
            self.commit()

    def commit(self) -> None:
        """Write what is ready, and merge small shards when there are enough of them."""
        started = time.perf_counter()
        if self._ready or self._removed:
            rows, vectors = self._assemble()
            self.writer.commit(rows, vectors, removed=self._removed)
            self._ready, self._removed = [], set()
            compact(self.writer)
        self._committed = time.monotonic()
        self.seconds += time.perf_counter() - started

    def finish(self) -> None:
        """Write the rest, forget rows whose item is gone, and record the corpus and its failures."""
        started = time.perf_counter()
        removed = self._removed | self._gone
        if self._ready or removed or self.plan.root not in self.writer.manifest.roots:
            rows, vectors = self._assemble()
            self.writer.commit(rows, vectors, removed=removed, root=self.plan.root)
            self._ready, self._removed = [], set()
        self.writer.record_failures(self.failures, under=self.plan.root)
        compact(self.writer)
        self.seconds += time.perf_counter() - started

    def _add(self, path: str, decoded: Decoded) -> None:
        if (before := self.plan.known.find(path)) >= 0:
            # A changed item's old row goes in the commit that brings its new one.
            self._removed.add(int(self.plan.known.ids[before]))
        self._ready.append(_Ready(path, decoded))
        self.indexed += 1

    def _reuse(self, path: str, decoded: Decoded) -> None:
        """A row for known content: it keeps the id of its own or its vanished row, else copies the vector."""
        known, content = self.plan.known, int(content_key(decoded.content_hash))
        before = known.find(path)
        own = int(known.ids[before]) if before >= 0 else None
        keeps: int | None = None
        if before >= 0 and int(known.contents[before]) == content:
            same_time = known.mtimes[before] == decoded.item.mtime_ns
            if same_time and known.has_version(before, decoded.item):
                self.unchanged += 1
                return
            keeps = own
        elif (moved := self._moved_from.pop(content, None)) is not None:
            keeps = moved
            self._gone.discard(moved)
        if own is not None and keeps != own:
            self._removed.add(own)
        twin = int(known.ids[known.find_content(decoded.content_hash)]) if keeps is None else keeps
        self._ready.append(_Ready(path, decoded, id=keeps, twin=twin))
        self.reused += 1

    def _fail(self, path: str, error: ImageError) -> None:
        reason = str(error).encode("utf-8", "backslashreplace").decode()  # it may quote a name
        self.failures.append(Failure(path=path, stage=error.stage, reason=reason))
        before = self.plan.known.find(path)
        if before >= 0 and error.stage != "read":
            # The item now holds something else, which is broken; the old vector no longer describes it.
            self._removed.add(int(self.plan.known.ids[before]))

    def _assemble(self) -> tuple[list[Row], np.ndarray]:
        ready: Sequence[_Ready] = self._ready
        fresh = iter(self.writer.allocate(sum(each.id is None for each in ready)))
        vectors = np.empty((len(ready), self.writer.manifest.dim), dtype=np.float32)
        twins = sorted({each.twin for each in ready if each.twin is not None})
        stored = dict(zip(twins, self._before.vectors(twins), strict=True))
        facts = {row["id"]: row for row in self._before.rows(twins)}
        rows: list[Row] = []
        for number, each in enumerate(ready):
            item, twin = each.decoded.item, facts.get(each.twin) if each.twin is not None else None
            vectors[number] = each.decoded.vector if each.twin is None else stored[each.twin]
            rows.append(
                Row(
                    id=next(fresh) if each.id is None else each.id,
                    path=each.path,
                    content_hash=each.decoded.content_hash,
                    size=each.decoded.size,
                    mtime_ns=item.mtime_ns,
                    corpus=self.plan.root,
                    version=item.version or None,
                    **{name: twin[name] if twin else getattr(each.decoded.facts, name) for name in _FACTS},
                )
            )
        return rows, vectors
