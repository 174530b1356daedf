"""Publishing: an index is copied to a serving engine, and later commits are brought over.

A publish makes the engine equal to the snapshot, whatever it holds before: rows are compared by digests, so a publish
that was interrupted at any instant is resumed by the next one. What need not be compared again is in the collection's
record: the shards whose rows are all there, which never change.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from llm2clip_search.base.files import user_path
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.errors import EngineError
from llm2clip_search.indexers.ann import no_captions
from llm2clip_search.indexers.published_rows import BLOCK_ROWS, PublishedRows
from llm2clip_search.indexers.serving_checks import check_sample, check_vectors, measure
from llm2clip_search.store import DEFAULT_FOLDER, Snapshot, has_index
from llm2clip_search.store.published import check_published, default_collection, index_identity
from llm2clip_search.store.shard import METADATA, Shard
from llm2clip_search.vectorindex.serving.engine import ServingEngine
from llm2clip_search.vectorindex.serving.opening import open_engine
from llm2clip_search.vectorindex.serving.state import Measured, Published

RECORDED_S = 10.0
"""Seconds between two records of what is done: an interrupted publish compares at most so much again."""
FEW = 64
"""Rows whose vectors are compared before anything is sent, so that two indices are never mixed."""


@dataclass(frozen=True, kw_only=True)
class PublishSummary:
    """What a publish did."""

    engine: str
    """URL of the collection."""
    index: str
    """Folder of the index."""
    rows: int
    """Live rows of the index, all of which the engine has now."""
    added: int
    changed: int
    """Rows whose columns were sent again."""
    deleted: int
    checked: int
    """Rows that were read back and compared at the end."""
    seconds: float
    """From the beginning to the end."""
    sent_seconds: float
    """Of these, for rows and deletions, before the index was built."""
    is_dry_run: bool = False
    measured: Measured | None = None
    """Recall and times; None for a dry run."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def publish_index(
    folder: str | os.PathLike[str],
    to: str | ServingEngine,
    *,
    captions: Callable[[int], np.ndarray | None] = no_captions,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> PublishSummary:
    """Copy an index to a serving engine, or bring over what was committed since the last time.

    Args:
        folder: the index folder, or the folder that holds it as ``.llm2clip``.
        to: URL as of `open_engine`, or an engine.
        captions: `Encoder.caption_sample` of the model that made the index: recall is measured with captions that it
            brings along. Without any, midpoints of stored vectors stand in for them.
        dry_run: compare and count, and send nothing.
        progress: called with ``rows`` as they are compared and sent, with ``vectors`` as the engine indexes them, and
            with ``measurements``.

    Raises:
        StoreError: no index there, or it is damaged.
        InputError: not the URL of an engine.
        EngineError: the engine cannot be reached, refuses, holds something else, or fails. What was sent stays, and
            the next publish goes on after it.
    """
    started = time.perf_counter()
    path = user_path(folder)
    path = path / DEFAULT_FOLDER if not has_index(path) and has_index(path / DEFAULT_FOLDER) else path
    snapshot = Snapshot(path)
    engine = open_engine(to, collection=default_collection(snapshot.folder)) if isinstance(to, str) else to
    run = _Publish(snapshot, engine, dry_run=dry_run, progress=progress)
    try:
        measured = run.run(captions)
    except EngineError as error:
        if run.is_under_way:
            raise EngineError(
                f"{error} {run.added + run.changed:,} rows were sent before.",
                hint="Run the same command again to go on.",
            ) from error
        raise
    finally:
        if isinstance(to, str):
            engine.close()
    return PublishSummary(
        engine=engine.name,
        index=str(snapshot.folder),
        rows=snapshot.manifest.live,
        added=run.added,
        changed=run.changed,
        deleted=run.deleted,
        checked=run.checked,
        seconds=time.perf_counter() - started,
        sent_seconds=run.sent_seconds,
        is_dry_run=dry_run,
        measured=measured,
    )


class _Publish:
    def __init__(self, snapshot: Snapshot, engine: ServingEngine, *, dry_run: bool, progress: Progress) -> None:
        self.snapshot, self.engine, self.dry_run, self.progress = snapshot, engine, dry_run, progress
        self.rows = PublishedRows(snapshot)
        self.added = self.changed = self.deleted = self.checked = 0
        self.sent_seconds = 0.0
        self.is_under_way = False
        self._recorded = 0.0

    def run(self, captions: Callable[[int], np.ndarray | None]) -> Measured | None:
        started = time.perf_counter()
        before = self.engine.state()
        if before is not None:
            self._check(before)
        state = self._state(before)
        is_new = before is None
        if not self.dry_run:
            if is_new:
                self.engine.create(self.rows.schema, dim=state.dim, dtype=state.dtype)
            self.engine.write_state(state)
            self.is_under_way = True
            if not is_new:
                self.engine.extend(self.rows.schema)
        state = self._send(state, is_empty=is_new or self.engine.count() == 0)
        if before is not None:
            self._delete(before)
        self.sent_seconds = time.perf_counter() - started
        if self.dry_run:
            return None
        if (held := self.engine.count()) != self.snapshot.manifest.live and state.shards:
            # Rows are missing that the record says are there: somebody else has deleted them.
            state = self._send(replace(state, shards={}), is_empty=False)
            held = self.engine.count()
        if held != self.snapshot.manifest.live:
            raise EngineError(f"{self.engine.name} holds {held:,} rows, but the index {self.snapshot.manifest.live:,}.")
        is_same = not (self.added or self.changed or self.deleted) and before is not None and before.is_complete
        if not is_same:
            self.engine.finish(self.progress)
        self.checked = check_sample(self.snapshot, self.engine)
        measured = state.measured
        if self.snapshot.manifest.live and (not is_same or measured is None):
            measured = measure(self.snapshot, self.engine, captions, self.progress)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.engine.write_state(replace(state, is_complete=True, published=now, measured=measured))
        return measured

    def _check(self, before: Published) -> None:
        """Refuse a collection of something else.

        Raises:
            EngineError: as `check_published`, an older copy of the index, or other vectors.
        """
        manifest, name = self.snapshot.manifest, self.engine.name
        check_published(self.snapshot, before, name)
        if before.generation > manifest.generation:
            raise EngineError(
                f"{name} holds commit {before.generation} of the index, but {self.snapshot.folder} is at commit"
                f" {manifest.generation}: it is an older copy."
            )
        live = self.snapshot.live_ids
        few = live[:: max(1, len(live) // FEW)]
        if len(few) and before.rows:
            check_vectors(self.snapshot, self.engine, few, missing=False)

    def _state(self, before: Published | None) -> Published:
        """The record while the publish is under way."""
        manifest, base = self.snapshot.manifest, self.snapshot.base.as_posix()
        names = {shard.name: _checksum(shard) for shard in self.snapshot.shards}
        # Paths start from the base, so that all rows of an index that was moved have others.
        known = before.shards if before is not None and before.base == base else {}
        return Published(
            index=index_identity(self.snapshot.folder),
            folder=str(self.snapshot.folder),
            model=manifest.model,
            dim=manifest.dim,
            dtype=manifest.dtype,
            base=base,
            generation=manifest.generation,
            next_id=manifest.next_id,
            rows=manifest.live,
            sources=tuple(asdict(source) for source in manifest.sources),
            columns=tuple(asdict(column) for column in manifest.columns),
            shards={name: mark for name, mark in known.items() if names.get(name) == mark},
            published="" if before is None else before.published,
            measured=None if before is None else before.measured,
        )

    def _send(self, state: Published, *, is_empty: bool) -> Published:
        """Send what is new or has changed in shards that are not known to be there."""
        pending = [shard for shard in self.snapshot.shards if shard.name not in state.shards]
        total, done = sum(len(shard.live_rows) for shard in pending), 0
        shards = dict(state.shards)
        for shard in pending:
            for difference in self.rows.differences(shard, self.engine, is_empty=is_empty):
                if not self.dry_run:
                    if len(difference.new):
                        self.engine.add(difference.new, difference.vectors)
                    if len(difference.changed):
                        self.engine.describe(difference.changed)
                self.added += len(difference.new)
                self.changed += len(difference.changed)
                done += difference.rows
                self.progress("rows", done, total, {"added": self.added, "changed": self.changed})
            shards[shard.name] = _checksum(shard)
            if not self.dry_run and time.monotonic() - self._recorded > RECORDED_S:
                self.engine.write_state(replace(state, shards=dict(shards)))
                self._recorded = time.monotonic()
        return replace(state, shards=shards)

    def _delete(self, before: Published) -> None:
        """Delete what is not live any more.

        Rows that have died since the last publish are always asked for: equal counts do not mean equal rows if somebody
        has deleted live ones. Everything is listed only if there are still too many.
        """
        live = self.snapshot.live_ids
        surplus = self.engine.count() + (self.added if self.dry_run else 0) - len(live)
        is_new_commit = not before.is_complete or before.generation != self.snapshot.manifest.generation
        if surplus <= 0 and not is_new_commit:
            return
        dead = np.unique(np.concatenate([shard.dead for shard in self.snapshot.shards]))
        dead = np.setdiff1d(dead, live, assume_unique=True)
        for start in range(0, len(dead), BLOCK_ROWS):
            there = self.engine.digests(dead[start : start + BLOCK_ROWS])
            self._delete_ids(np.sort(np.fromiter(there, dtype=np.int64)))
        if self.deleted < surplus:  # shards that held others have been merged since
            listed = list(self.engine.ids())  # to the end, before any is deleted
            counted = dead if self.dry_run else np.empty(0, dtype=np.int64)
            for ids in listed:
                self._delete_ids(np.setdiff1d(ids[~np.isin(ids, live)], counted))

    def _delete_ids(self, ids: np.ndarray) -> None:
        if len(ids):
            if not self.dry_run:
                self.engine.delete(ids)
            self.deleted += len(ids)


def _checksum(shard: Shard) -> str:
    return shard.entry.sha256.get(METADATA, "")
