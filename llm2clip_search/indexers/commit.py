"""Committing embedded items: which id each row gets, which rows are replaced or removed, and when to write."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.corpora.columns import DESCRIBED
from llm2clip_search.corpora.decode import Decoded, ImageFacts, content_key
from llm2clip_search.errors import ImageError
from llm2clip_search.indexers.columns import ColumnTypes
from llm2clip_search.indexers.known import Embedded
from llm2clip_search.indexers.plan import IndexPlan, file_and_part, has_vanished, is_lost
from llm2clip_search.store import Row, Writer
from llm2clip_search.store.compaction import compact
from llm2clip_search.store.paths import as_mask
from llm2clip_search.store.row_files import BATCH_ROWS
from llm2clip_search.store.schema import CONTAINER_SCHEMA, Failure
from llm2clip_search.store.snapshot import is_uri

_BLOCKS = 64
"""Blocks of paths that are held."""
_FACTS = (*(each.name for each in fields(ImageFacts)), "text")


@dataclass(slots=True)
class _Ready:
    """A row waiting for its commit: embedded, or with the vector of a row whose content it shares."""

    path: str
    decoded: Decoded
    id: int
    twin: int | None = None
    """Id of the row that its vector and facts are taken from."""
    keeps_columns: bool = False
    """That row is its own, and has the columns that the corpus brings along."""


class Committer:
    """Turns the results of one run into rows and commits them from time to time."""

    def __init__(self, writer: Writer, plan: IndexPlan, *, rows_per_commit: int, seconds_per_commit: float) -> None:
        self.writer, self.plan = writer, plan
        self.rows_per_commit, self.seconds_per_commit = rows_per_commit, seconds_per_commit
        self.indexed = 0
        """Items embedded in this run."""
        self.damaged = 0
        """Of those, items whose file is damaged; their rows say how."""
        self.reused = 0
        """Items whose content was in the index: renamed, copied, or touched without change."""
        self.redescribed = 0
        """Items of which only the columns that the corpus brings along have changed."""
        self.unchanged = plan.unchanged
        """Items that are as their row says, by their version or after they were read."""
        self.failures: list[Failure] = []
        self.seconds = 0.0
        """Spent on writing."""
        # Vectors and facts of content that was known come from here: a later commit may remove the row that has them.
        self._before = writer.snapshot
        self._paths = lru_cache(maxsize=_BLOCKS)(self._read_paths)
        self._embedded = Embedded()
        self._gone = np.zeros(len(plan.known), dtype=bool)
        self._gone[plan.gone] = True
        self._elsewhere = plan.known.present.copy()
        """Rows whose file is known to be in its place, or to have been found in another one."""
        self._moved = np.zeros(len(plan.known), dtype=bool)
        """Rows that have another path now. Of parts of a container that is read, the file alone tells nothing."""
        self._ready: list[_Ready] = []
        self._next_id = writer.manifest.next_id
        self._removed: set[int] = set()
        self._committed = time.monotonic()
        self._containers: dict[str, dict[str, Any]] = {}
        """Those that this run has read to their end, as `CONTAINER_SCHEMA`, by stored path."""
        self._rowless = Counter[str]()
        """Parts that failed and have no row, by stored path of containers that have not been read to their end."""
        self._unseen = {each["path"] for each in self._before.failures()} if self._lists_some() else set[str]()
        """Paths of earlier failures that a run which lists some items of its corpus has not come upon."""
        self._recorded, self._recording = time.monotonic(), 0.0
        """When containers were recorded last, and how long that took."""
        self.columns = ColumnTypes(writer.manifest.columns)

    @property
    def untyped(self) -> dict[str, int]:
        """Values that were left out because they do not have the type of their column, by column."""
        return dict(self.columns.refused)

    @property
    def removed(self) -> int:
        """Rows whose item is gone and was not found again elsewhere."""
        return int(self._gone.sum())

    @property
    def vacant(self) -> dict[str, int]:
        """Rows that are kept below parts that hold nothing any more, and were not found again elsewhere."""
        counts = {part: int((~self._elsewhere[rows]).sum()) for part, rows in self.plan.vacant.items()}
        return {part: count for part, count in counts.items() if count}

    def knows(self, content_hash: str) -> bool:
        """True if a row has the content, in the index as it was or by what this run has embedded; for any thread."""
        return self.plan.known.find_content(content_hash) >= 0 or self._embedded.find(content_hash) >= 0

    def take(self, decoded: Decoded) -> None:
        """Add one item: failed, of known content, or with a fresh vector. Commits when it is time."""
        path = self.writer.snapshot.stored(decoded.item.uri)
        self._unseen.discard(path)
        if decoded.item.is_container:
            self._end_container(path, decoded)
        elif decoded.error is not None:
            self._fail(path, decoded.error)
        elif decoded.redescribed is not None:
            own = int(self.plan.known.ids[decoded.redescribed])
            self._ready.append(_Ready(path, decoded, own, own))
            self.redescribed += 1
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
            self._write(self._removed)
            if time.monotonic() - self._recorded > max(self.seconds_per_commit, 100 * self._recording):
                self.record_containers()
            compact(self.writer)
        self._committed = time.monotonic()
        self.seconds += time.perf_counter() - started

    def finish(self) -> None:
        """Write the rest, forget rows whose item is gone, and record the corpus and its failures."""
        started = time.perf_counter()
        source = self.plan.source
        removed = np.concatenate([np.array([*self._removed], dtype=np.int64), self.plan.known.ids[self._gone]])
        if self._ready or len(removed) or (source is not None and source not in self.writer.manifest.sources):
            self._write(removed)
        self.writer.record_failures(self.failures, under=self.plan.root, kept=self._still_fails)
        self.record_containers()
        compact(self.writer)
        self.seconds += time.perf_counter() - started

    def record_containers(self) -> None:
        """Say which containers need not be opened again while they stay as they are."""
        started = time.monotonic()
        table, snapshot = self.plan.completed.table, self.writer.snapshot
        kept = np.ones(len(table), dtype=bool)
        if not self.plan.is_partial and len(table):
            own = as_mask(pc.equal(table.column("modality"), self.plan.modality))
            own &= snapshot.below(table.column("path"), self.plan.root)
            kept = ~own | self.plan.completed.listed
        replaced = pc.is_in(table.column("path"), pa.array([*self._containers], pa.string()))
        same = pc.and_(replaced, pc.equal(table.column("modality"), self.plan.modality))
        kept &= ~as_mask(same) if len(table) else kept
        if self._containers or not kept.all():
            new = pa.Table.from_pylist([*self._containers.values()], schema=CONTAINER_SCHEMA)
            self.writer.record_containers(pa.concat_tables([table.filter(pa.array(kept)), new]))
        self._recorded = time.monotonic()
        self._recording = self._recorded - started

    def _end_container(self, path: str, decoded: Decoded) -> None:
        """All parts of a container have passed: rows of parts that it does not have any more are gone."""
        known, item = self.plan.known, decoded.item
        self.unchanged += decoded.unchanged
        if decoded.error is not None:
            self._fail(path, decoded.error)  # what lies behind the error is not known, so its rows stay
        else:
            rows = known.parts_of(path, self.plan.modality)
            self._gone[rows[~known.present[rows] & ~self._moved[rows]]] = True
            if item.version:
                count = decoded.parts - self._rowless[path]
                values = (path, self.plan.modality, self.plan.judge.version(item), count)
                self._containers[path] = dict(zip(CONTAINER_SCHEMA.names, values, strict=True))
        del self._rowless[path]

    def _lists_some(self) -> bool:
        """True if the corpus has items that this run has not listed: only some are named, or it looks for texts where
        another source of the index is the images, or the reverse."""
        sources = self.writer.manifest.sources
        both = any(each.uri == self.plan.root and each.modality != self.plan.modality for each in sources)
        return self.plan.is_partial or both

    def _still_fails(self, path: str) -> bool:
        """True for earlier failures that this run tells nothing of: of a container that it did not open, or of an item
        that it did not list and that is still there."""
        container, part = file_and_part(self._before, path)
        position = self.plan.completed.find(container, self.plan.modality) if part else -1
        if position >= 0 and self.plan.completed.is_listed(position):
            return True
        row = self.plan.known.find(path)
        is_unseen = path in self._unseen and not (row >= 0 and self.plan.known.present[row])
        return is_unseen and not has_vanished(self._before.located(container))

    def _write(self, removed: Collection[int] | np.ndarray) -> None:
        """Commit the rows that are ready."""
        rows, vectors, columns = self._assemble()
        self.writer.commit(rows, vectors, columns=columns, removed=removed, source=self.plan.source)
        self._ready, self._removed = [], set()

    def _add(self, path: str, decoded: Decoded) -> None:
        if (before := self.plan.known.find(path)) >= 0:
            # A changed item's old row goes in the commit that brings its new one.
            self._removed.add(int(self.plan.known.ids[before]))
        ready = _Ready(path, decoded, self._fresh_id())
        self._embedded.add(decoded.content_hash, ready.id)
        self._ready.append(ready)
        self.indexed += 1
        self.damaged += decoded.facts is not None and decoded.facts.damage is not None

    def _reuse(self, path: str, decoded: Decoded) -> None:
        """A row for known content: it keeps the id of its own row or of a lost one, else it copies the vector."""
        known, content = self.plan.known, content_key(decoded.content_hash)
        before = known.find(path)
        if before >= 0 and known.contents[before] == content:
            kept, is_described = before, self.plan.judge.is_described(before, decoded.item)
            same_time = known.mtimes[before] == decoded.item.mtime_ns
            if same_time and is_described and known.has_version(before, decoded.item):
                self.unchanged += 1
                return
        else:
            kept = self._moved_from(decoded.content_hash)
            is_described = kept >= 0 and self.plan.judge.is_described(kept, decoded.item)
        if before >= 0 and kept != before:
            self._removed.add(int(known.ids[before]))
        if kept >= 0:
            identifier = twin = int(known.ids[kept])
        else:
            identifier, row = self._fresh_id(), known.find_content(decoded.content_hash)
            twin = int(known.ids[row]) if row >= 0 else self._embedded.find(decoded.content_hash)
        keeps_columns = is_described and not decoded.item.described
        self._ready.append(_Ready(path, decoded, identifier, twin, keeps_columns))
        self.reused += 1

    def _moved_from(self, content_hash: str) -> int:
        """Position of a row with a content whose file is gone: of this corpus, else of any other; each is given once.

        It is -1 if there is none.

        Files of other corpora are looked for on the disk, so that a file that is still there is not taken for moved.
        """
        rows = self.plan.known.with_content(content_hash)
        rows = rows[~self._elsewhere[rows]]
        for row in rows[np.argsort(~self._gone[rows], kind="stable")]:
            self._elsewhere[row] = True
            if self._gone[row] or self._is_lost(int(self.plan.known.ids[row])):
                self._gone[row], self._moved[row] = False, True
                return int(row)
        return -1

    def _is_lost(self, identifier: int) -> bool:
        file, _ = file_and_part(self._before, self._paths(identifier // BATCH_ROWS)[identifier])
        return not is_uri(file) and is_lost(self._before.located(file))

    def _read_paths(self, block: int) -> dict[int, str]:
        """Paths by id, `BATCH_ROWS` ids at a time: a folder that has moved asks for one after the other."""
        return self._before.paths(np.arange(block * BATCH_ROWS, (block + 1) * BATCH_ROWS))

    def _fresh_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _fail(self, path: str, error: ImageError) -> None:
        reason = str(error).encode("utf-8", "backslashreplace").decode()  # it may quote a name
        self.failures.append(Failure(path=path, stage=error.stage, reason=reason, corpus=self.plan.owner))
        before = self.plan.known.find(path)
        container, part = file_and_part(self._before, path)
        self._rowless[container] += bool(part) and (before < 0 or error.stage != "read")
        if before >= 0 and error.stage != "read":
            # The item now holds something else, which is broken; the old vector no longer describes it.
            self._removed.add(int(self.plan.known.ids[before]))

    def _assemble(self) -> tuple[list[Row], np.ndarray, pa.Table | None]:
        """The rows that are ready, their vectors, and the columns that the corpus has brought along."""
        ready: Sequence[_Ready] = self._ready
        vectors = np.empty((len(ready), self.writer.manifest.dim), dtype=np.float32)
        stored, facts = self._stored({each.twin for each in ready if each.twin is not None})
        rows, further = list[Row](), list[Mapping[str, Any]]()
        for number, each in enumerate(ready):
            decoded, item = each.decoded, each.decoded.item
            twin = facts.get(each.twin) if each.twin is not None else None
            vectors[number] = decoded.vector if each.twin is None else stored[each.twin]
            of_file = twin if twin is not None else facts_of(decoded)
            own = {} if each.keeps_columns else dict(decoded.own or {})
            if decoded.redescribed is not None and decoded.own is None:
                own = dict.fromkeys(DESCRIBED)  # what the source said before, and may say no more
            rows.append(
                Row(
                    id=each.id,
                    path=each.path,
                    content_hash=decoded.content_hash or of_file["content_hash"],
                    size=decoded.size or of_file["size"],
                    mtime_ns=item.mtime_ns,
                    corpus=self.plan.owner,
                    version=item.version or None,
                    modality=self.plan.modality,
                    described=(of_file["described"] if each.keeps_columns else item.described) or None,
                    **{name: of_file.get(name) for name in _FACTS} | own | self.columns.descriptive(item.columns),
                )
            )
            further.append(of_file if each.keeps_columns else item.columns)
        return rows, vectors, self.columns.table(further)

    def _stored(self, twins: set[int]) -> tuple[dict[int, np.ndarray], dict[int, dict[str, Any]]]:
        """Vectors and facts by id of rows that were there before the run, that it has committed, or that wait here."""
        vectors, facts = dict[int, np.ndarray](), dict[int, dict[str, Any]]()
        waiting = {
            each.id: each.decoded for each in self._ready if each.id in twins and each.decoded.vector is not None
        }
        for identifier, decoded in waiting.items():
            assert decoded.vector is not None
            vectors[identifier] = decoded.vector
            facts[identifier] = facts_of(decoded)
        first = self._before.manifest.next_id
        for snapshot, is_new in ((self._before, False), (self.writer.snapshot, True)):
            ids = sorted(each for each in twins if (each >= first) is is_new and each not in waiting)
            vectors |= zip(ids, snapshot.vectors(ids), strict=True)
            facts |= {row["id"]: row for row in snapshot.rows(ids)}
        return vectors, facts


def facts_of(decoded: Decoded) -> dict[str, Any]:
    """What was found in an image or a text that has just been embedded, by column."""
    facts = (
        {} if decoded.facts is None else {each.name: getattr(decoded.facts, each.name) for each in fields(ImageFacts)}
    )
    own = {"content_hash": decoded.content_hash, "size": decoded.size, "text": decoded.text, "described": None}
    return {**facts, **own}
