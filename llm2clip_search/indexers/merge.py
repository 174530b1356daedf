"""Merging indices: the live rows of several become a new index, with their vectors bit by bit.

The new index is built in a hidden folder within its own, and moved out of it when it is complete, its manifest last.
So a merge that is killed leaves a folder that is not an index; the next merge into it starts again.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.base.checksums import CHECKED
from llm2clip_search.base.files import fsync_path
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.errors import StoreError
from llm2clip_search.indexers.ann import build_ann, no_captions
from llm2clip_search.store import METADATA_SCHEMA, Snapshot, SourceEntry, Writer
from llm2clip_search.store.faults import writing
from llm2clip_search.store.lock import writer_lock
from llm2clip_search.store.manifest import MANIFEST, SHARDS, UNFINISHED, ColumnEntry
from llm2clip_search.store.schema import Failure, column_field
from llm2clip_search.store.shard import METADATA, VECTORS, Shard
from llm2clip_search.store.snapshot import ANN, BLOCK_ROWS, FAILURES, check_same_model, index_folder
from llm2clip_search.store.stranded import change_of_base
from llm2clip_search.vectorindex.policy import AnnConfig

ROWS_PER_COMMIT = 262_144
"""Rows per shard of the new index: the size up to which compaction would merge it with others."""
_PUBLISHED = (SHARDS, ANN, FAILURES, CHECKED)
"""What a finished index consists of besides its manifest."""


@dataclass(frozen=True, kw_only=True)
class MergeSummary:
    """What a merge did."""

    index: str
    """Folder of the new index."""
    sources: int
    """Indices that were merged."""
    total: int
    """Rows of the new index."""
    skipped: int
    """Rows whose path an index named earlier has too."""
    failures: int
    ann: str | None
    """FAISS factory string of the approximate index; None when search is exact."""
    elapsed: float
    """Seconds."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def merge_indices(
    out: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]],
    *,
    ann: AnnConfig | None = None,
    captions: Callable[[int], np.ndarray | None] = no_captions,
    rows_per_commit: int = ROWS_PER_COMMIT,
    progress: Progress = no_progress,
) -> MergeSummary:
    """Make a new index of the live rows of several, which stay as they are.

    Rows get new ids. Paths stay those of the same files, relative to the new index's parent if they lie below it; those
    of an index that was moved or copied without its images lead to where the images still are. If two indices have the
    same path, the row of the one named first is kept. Columns that corpora brought along, corpora and failures are
    kept, so that the new index is brought up to date with `index_corpus` like any other. Memory holds the rows of one
    shard, and 8 bytes per row.

    Args:
        out: folder of the new index; it must not exist, or be empty.
        sources: folders of the indices.
        ann: when and how to build an approximate index.
        captions: as for `build_ann`.
        rows_per_commit: rows per shard of the new index.
        progress: called with ``images`` as rows are copied.

    Raises:
        DamagedError: a file of a source differs from what was committed.
        StoreError: ``out`` holds something, a source is missing or named twice, different models made two of them, or
            a further column has two types.
    """
    started = time.perf_counter()
    target = index_folder(Path(out))
    snapshots = [Snapshot(Path(source)) for source in sources]
    check_same_model(snapshots)
    spelling = _checked_columns(snapshots)
    config, total = ann or AnnConfig(), sum(snapshot.manifest.live for snapshot in snapshots)
    config.kind_for(total, snapshots[0].manifest.dim)  # refuses what cannot be built before anything is copied
    with _new_folder(target) as work:
        first = snapshots[0].manifest
        with Writer.open(work, model=first.model, dim=first.dim) as writer:
            _check_dtype(snapshots, writer)
            merge = _Merge(writer, target.parent, rows_per_commit, spelling)
            progress("images", 0, total, {})
            for snapshot in snapshots:
                for _ in merge.take(snapshot):
                    progress("images", merge.seen, total, {})
            merge.finish(snapshots)
            progress("images", total, total, {})
            entry = build_ann(writer, config, captions=captions, progress=progress)
            manifest = writer.manifest
    return MergeSummary(
        index=str(target),
        sources=len(snapshots),
        total=manifest.live,
        skipped=merge.skipped,
        failures=manifest.failures,
        ann=entry.factory if entry else None,
        elapsed=time.perf_counter() - started,
    )


class _Merge:
    """Rows on their way to the new index."""

    def __init__(self, writer: Writer, base: Path, rows_per_commit: int, spelling: Mapping[str, str]) -> None:
        """``spelling`` is that of the further columns, by name in lower case."""
        self._writer, self._base, self._rows_per_commit, self._spelling = writer, base, rows_per_commit, spelling
        self.skipped = 0
        self.seen = 0
        """Rows of the sources that were looked at."""
        # Sorted hashes of 64 bits: two of ten million paths share one with a probability of 3e-6.
        self._paths = np.empty(0, dtype=np.int64)
        self._tables: list[pa.Table] = []
        self._vectors: list[tuple[Shard, np.ndarray]] = []
        self._waiting = 0

    def take(self, snapshot: Snapshot) -> Iterator[None]:
        """Copy the live rows of an index, one shard at a time."""
        own = []
        rebase = change_of_base(snapshot, self._base)
        for shard in snapshot.shards:
            for file in (METADATA, VECTORS):  # what has decayed would get a checksum of its own
                shard.confirm(file, again=True)
            table = rebase.of_table(shard.metadata(snapshot.schema))
            table = table.rename_columns([self._spelling.get(name.casefold(), name) for name in table.column_names])
            hashes = np.fromiter(map(hash, table.column("path").to_pylist()), dtype=np.int64, count=len(table))
            kept = np.flatnonzero(~self._is_known(hashes))
            own.append(hashes[kept])
            self.skipped += len(table) - len(kept)
            self.seen += len(table)
            self._add(table, shard, kept)
            yield
        self._paths = np.sort(np.concatenate([self._paths, *own]))

    def finish(self, snapshots: Sequence[Snapshot]) -> None:
        """Commit the rest, and what the sources say of corpora and failures."""
        self._commit()
        failures: dict[str, Failure] = {}
        sources: dict[tuple[str, str], SourceEntry] = {}
        for snapshot in snapshots:
            rebase = change_of_base(snapshot, self._base)
            for source in snapshot.manifest.sources:
                moved = replace(source, uri=rebase.of(source.uri), mounts=tuple(map(rebase.of, source.mounts)))
                sources.setdefault((moved.uri, moved.modality), moved)
            for row in snapshot.failures() if snapshot.manifest.failures else ():
                path = rebase.of(row["path"])
                corpus = rebase.of(row["corpus"]) if row.get("corpus") else None
                failures.setdefault(path, replace(Failure(**row), path=path, corpus=corpus))
        self._writer.set_sources([*sources.values()], base=self._base.as_posix())
        self._writer.replace_failures([*failures.values()])

    def _is_known(self, hashes: np.ndarray) -> np.ndarray:
        """True for the hashes of paths that an earlier index has, bool ``[n]``."""
        if not len(self._paths):
            return np.zeros(len(hashes), dtype=bool)
        at = np.minimum(np.searchsorted(self._paths, hashes), len(self._paths) - 1)
        known: np.ndarray = self._paths[at] == hashes
        return known

    def _add(self, table: pa.Table, shard: Shard, kept: np.ndarray) -> None:
        """Wait with some live rows of a shard, and commit when there are enough."""
        while len(kept):
            now = kept[: self._rows_per_commit - self._waiting]
            kept = kept[len(now) :]
            self._tables.append(table.take(pa.array(now)))
            self._vectors.append((shard, shard.live_rows[now]))
            self._waiting += len(now)
            if self._waiting == self._rows_per_commit:
                self._commit()

    def _commit(self) -> None:
        if not self._waiting:
            return
        # Rows of an index without a column that another has are null in it.
        table = pa.concat_tables(self._tables, promote_options="default").combine_chunks()
        further = [field for field in table.schema if field.name not in METADATA_SCHEMA.names]
        ids = pa.array(self._writer.allocate(len(table)), pa.int64())
        table = table.set_column(table.column_names.index("id"), "id", ids)
        self._writer.append(
            table.select([*METADATA_SCHEMA.names, *(field.name for field in further)]).cast(
                pa.schema([*METADATA_SCHEMA, *further])
            ),
            _blocks(self._vectors),
        )
        self._tables, self._vectors, self._waiting = [], [], 0


def _blocks(vectors: Sequence[tuple[Shard, np.ndarray]]) -> Iterator[np.ndarray]:
    for shard, rows in vectors:
        for start in range(0, len(rows), BLOCK_ROWS):
            yield shard.vectors[rows[start : start + BLOCK_ROWS]]


def _checked_columns(snapshots: Sequence[Snapshot]) -> dict[str, str]:
    """How further columns are spelt in the new index, by name in lower case: as in the first index that has each."""
    known: dict[str, tuple[ColumnEntry, Path]] = {}
    for snapshot in snapshots:
        for column in snapshot.manifest.columns:
            other, folder = known.setdefault(column.name.casefold(), (column, snapshot.folder))
            if column_field(other).type != column_field(column).type:
                raise StoreError(
                    f"Column {column.name!r} is {other.type} in {folder}, but {column.type} in {snapshot.folder}."
                )
    return {name: column.name for name, (column, _) in known.items()}


def _check_dtype(snapshots: Sequence[Snapshot], writer: Writer) -> None:
    """Vectors of another precision would be rounded."""
    for snapshot in snapshots:
        if snapshot.manifest.dtype != writer.manifest.dtype:
            raise StoreError(
                f"{snapshot.folder} holds {snapshot.manifest.dtype} vectors, but a new index {writer.manifest.dtype}."
            )


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder to build an index in, which becomes ``target`` on success; on an error nothing of it is left."""
    is_new, is_ours = not target.exists(), False
    _refuse(target)
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    try:
        with writer_lock(target):
            is_ours = True
            _refuse(target)  # another merge may have finished since
            _clear(target)  # what a merge left that was killed
            try:
                yield target / UNFINISHED
                _publish(target)
            finally:
                _clear(target)
    except BaseException:
        if is_new and is_ours:
            for name in ("writer.lock", "writer.json"):
                (target / name).unlink(missing_ok=True)
            with suppress(OSError):
                target.rmdir()
        raise


def _refuse(target: Path) -> None:
    hint = "Name a folder that does not exist."
    if target.exists() and not target.is_dir():
        raise StoreError(f"{target} is a file.", hint=hint)
    if (target / MANIFEST).is_file():
        raise StoreError(f"{target} holds an index already.", hint=hint)
    there = {path.name for path in target.iterdir()} if target.exists() else set()
    own = {"writer.lock", "writer.json", *((UNFINISHED, *_PUBLISHED) if UNFINISHED in there else ())}
    if foreign := sorted(there - own):
        raise StoreError(f"{target} is not empty: it holds {foreign[0]!r}.", hint=hint)


def _publish(target: Path) -> None:
    """Move a finished index out of its hidden folder; its manifest comes last and makes it an index."""
    for name in _PUBLISHED:
        if (target / UNFINISHED / name).exists():
            (target / UNFINISHED / name).rename(target / name)
    fsync_path(target)
    (target / UNFINISHED / MANIFEST).rename(target / MANIFEST)
    fsync_path(target)


def _clear(target: Path) -> None:
    """Remove the hidden folder, and unless there is an index, whatever was moved out of it."""
    for name in (UNFINISHED,) if (target / MANIFEST).is_file() else (UNFINISHED, *_PUBLISHED):
        path = target / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
