"""Committing embedded items: which id each row gets, which rows are replaced or removed, and when to write."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from llm2clip_search.corpora.decode import Decoded, ImageFacts
from llm2clip_search.errors import ImageError
from llm2clip_search.indexers.plan import IndexPlan
from llm2clip_search.store import Row, Writer
from llm2clip_search.store.schema import Failure

_FACTS = tuple(each.name for each in fields(ImageFacts))


@dataclass(slots=True)
class _Ready:
    """A row waiting for its commit: with a fresh vector, or with the id whose vector it takes."""

    path: str
    decoded: Decoded
    facts: ImageFacts
    id: int | None = None
    vector_of: int | None = None


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
        self._moved_from = {row["content_hash"]: identifier for identifier, row in plan.gone.items()}
        self._gone = dict(plan.gone)
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
        if decoded.error is not None or not _is_text(path):
            self._fail(path, decoded.error or ImageError("its name is not valid UTF-8", stage="read"))
        elif decoded.vector is not None:
            self._add(path, decoded)
        else:
            self._reuse(path, decoded)
        waited = time.monotonic() - self._committed > self.seconds_per_commit
        if len(self._ready) >= self.rows_per_commit or (waited and self._ready):
            self.commit()

    def commit(self) -> None:
        """Write what is ready."""
        started = time.perf_counter()
        if self._ready or self._removed:
            rows, vectors = self._assemble()
            self.writer.commit(rows, vectors, removed=self._removed)
            self._ready, self._removed = [], set()
        self._committed = time.monotonic()
        self.seconds += time.perf_counter() - started

    def finish(self) -> None:
        """Write the rest, forget rows whose item is gone, and record the corpus and its failures."""
        started = time.perf_counter()
        removed = self._removed | self._gone.keys()
        if self._ready or removed or self.plan.root not in self.writer.manifest.roots:
            rows, vectors = self._assemble()
            self.writer.commit(rows, vectors, removed=removed, root=self.plan.root)
            self._ready, self._removed = [], set()
        self.writer.record_failures(self.failures, under=self.plan.root)
        self.seconds += time.perf_counter() - started

    def _add(self, path: str, decoded: Decoded) -> None:
        assert decoded.facts is not None, "an item with a vector was decoded"
        if path in self.plan.known:  # a changed item's old row goes in the commit that brings its new one
            self._removed.add(self.plan.known[path]["id"])
        self._ready.append(_Ready(path, decoded, decoded.facts))
        self.indexed += 1

    def _reuse(self, path: str, decoded: Decoded) -> None:
        """A row for known content: it keeps the id of its own or its vanished row, else copies the vector."""
        twin = self.plan.by_hash[decoded.content_hash]
        before = self.plan.known.get(path)
        keeps: int | None = None
        if before is not None and before["content_hash"] == decoded.content_hash:
            if (before["size"], before["mtime_ns"]) == (decoded.size, decoded.item.mtime_ns):
                self.unchanged += 1
                return
            keeps = before["id"]
        elif (moved := self._moved_from.pop(decoded.content_hash, None)) is not None:
            keeps = moved
            del self._gone[moved]
        if before is not None and keeps != before["id"]:
            self._removed.add(before["id"])
        facts = ImageFacts(**{name: twin[name] for name in _FACTS})
        self._ready.append(_Ready(path, decoded, facts, id=keeps, vector_of=twin["id"] if keeps is None else keeps))
        self.reused += 1

    def _fail(self, path: str, error: ImageError) -> None:
        printable = path.encode("utf-8", "backslashreplace").decode("utf-8")
        self.failures.append(Failure(path=printable, stage=error.stage, reason=str(error)))
        before = self.plan.known.get(path)
        if before is not None and error.stage != "read":
            # The item now holds something else, which is broken; the old vector no longer describes it.
            self._removed.add(before["id"])

    def _assemble(self) -> tuple[list[Row], np.ndarray]:
        ready: Sequence[_Ready] = self._ready
        fresh = iter(self.writer.allocate(sum(each.id is None for each in ready)))
        vectors = np.empty((len(ready), self.writer.manifest.dim), dtype=np.float32)
        kept = sorted({each.vector_of for each in ready if each.vector_of is not None})
        stored = dict(zip(kept, self.writer.snapshot.vectors(kept), strict=True))
        rows: list[Row] = []
        for number, each in enumerate(ready):
            vectors[number] = each.decoded.vector if each.vector_of is None else stored[each.vector_of]
            rows.append(
                Row(
                    id=next(fresh) if each.id is None else each.id,
                    path=each.path,
                    content_hash=each.decoded.content_hash,
                    size=each.decoded.size,
                    mtime_ns=each.decoded.item.mtime_ns,
                    **{name: getattr(each.facts, name) for name in _FACTS},
                )
            )
        return rows, vectors


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
