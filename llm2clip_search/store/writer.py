"""The one writer of an index: each commit is a whole new state, or nothing.

A shard is written under a temporary name, flushed and renamed; then the manifest is replaced. Killed
at any instant, the index is what the last manifest says, and what it does not name is swept up by
the next writer.
"""

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.base.files import file_sha256, fsync_path, replace_file
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.errors import StoreError
from llm2clip_search.store.lock import writer_lock
from llm2clip_search.store.manifest import MANIFEST, AnnEntry, Manifest, ShardEntry
from llm2clip_search.store.schema import FAILURE_SCHEMA, METADATA_SCHEMA, TOMBSTONE_SCHEMA, Failure, Row
from llm2clip_search.store.snapshot import Snapshot, plain_path

FAILURES = "failures.parquet"


class Writer:
    """Commits to an index folder; made by `Writer.open`, which holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.snapshot = Snapshot(folder)

    @classmethod
    @contextmanager
    def open(cls, folder: Path, *, model: ModelIdentity, dim: int) -> Iterator["Writer"]:
        """Open an index for writing, or begin one.

        Raises:
            StoreError: another writer is at work, the folder is no index, or another model made it.
        """
        folder = plain_path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror}; --index names another place.") from error
        if not (folder / MANIFEST).exists():
            foreign = [entry.name for entry in folder.iterdir() if not entry.name.startswith(("writer.", "."))]
            if foreign and not set(foreign) <= {"shards", "ann"}:
                raise StoreError(f"{folder} is not empty and is no index (it holds {sorted(foreign)[0]!r}).")
        with writer_lock(folder):
            if not (folder / MANIFEST).exists():
                Manifest(model=model, dim=dim).write(folder)
            writer = cls(folder)
            check_model(writer.snapshot, model)
            writer._sweep()
            yield writer

    @property
    def manifest(self) -> Manifest:
        return self.snapshot.manifest

    def allocate(self, count: int) -> range:
        """The next ``count`` ids; they are taken when a commit holds them."""
        return range(self.manifest.next_id, self.manifest.next_id + count)

    def commit(
        self,
        rows: Sequence[Row] = (),
        vectors: np.ndarray | None = None,
        *,
        removed: Collection[int] = (),
        root: str | None = None,
    ) -> None:
        """Add a shard, delete rows, or both, in one step.

        A row whose id is already in the index takes the older row's place; its vector must be the
        same one, since an id names one vector for ever.

        Args:
            rows: metadata, one a vector.
            vectors: float ``[len(rows), dim]``, unit length.
            removed: ids to delete.
            root: a corpus to remember, as the metadata writes paths.
        """
        manifest, shards = self.manifest, self.manifest.shards
        next_id, next_shard = manifest.next_id, manifest.next_shard
        if rows:
            assert vectors is not None, "rows come with their vectors"
            assert vectors.shape == (len(rows), manifest.dim), "one vector a row"
            entry = self._write_shard(f"{next_shard:06d}", rows, vectors)
            shards, next_shard = (*shards, entry), next_shard + 1
            next_id = max(next_id, max(row.id for row in rows) + 1)
        tombstones = self._tombstones(np.array([*removed, *(row.id for row in rows)], dtype=np.int64))
        name, digest = manifest.tombstones, manifest.tombstones_sha256
        if tombstones.num_rows > self.snapshot.tombstones.num_rows:
            name = f"tombstones-{manifest.generation + 1:08d}.parquet"
            replace_file(self.snapshot.folder / name, _parquet(tombstones))
            digest = file_sha256(self.snapshot.folder / name)
        dead = tombstones.num_rows
        self._publish(
            manifest.next(
                shards=shards,
                next_id=next_id,
                next_shard=next_shard,
                tombstones=name,
                tombstones_sha256=digest,
                live=sum(shard.rows for shard in shards) - dead,
                dead=dead,
                roots=manifest.roots if root is None or root in manifest.roots else (*manifest.roots, root),
            )
        )

    def record_failures(self, failures: Iterable[Failure], *, under: str) -> None:
        """Replace what was recorded for the corpus ``under``; other corpora's failures stay."""
        path = self.snapshot.folder / FAILURES
        kept: list[dict[str, str]] = []
        if path.exists():
            try:
                recorded = pq.read_table(path).to_pylist()
            except (OSError, pa.ArrowException) as error:
                raise StoreError(f"{path} cannot be read: {error}; delete it to begin it anew.") from error
            kept = [row for row in recorded if not self.snapshot.is_under(row["path"], under)]
        found = [*kept, *(failure.to_dict() for failure in failures)]
        replace_file(path, _parquet(pa.Table.from_pylist(found, schema=FAILURE_SCHEMA)))
        self._publish(self.manifest.next(failures=len(found)))

    def publish_ann(self, entry: AnnEntry | None) -> None:
        """Make ``ann/NAME``, which the caller wrote, the index's FAISS file; None for exact search only."""
        if entry is not None:
            fsync_path(self.snapshot.folder / "ann" / entry.name)
        self._publish(self.manifest.next(ann=entry))

    def _publish(self, manifest: Manifest) -> None:
        manifest.write(self.snapshot.folder)
        self.snapshot = Snapshot(self.snapshot.folder)

    def _write_shard(self, name: str, rows: Sequence[Row], vectors: np.ndarray) -> ShardEntry:
        shards = self.snapshot.folder / "shards"
        shards.mkdir(exist_ok=True)
        temporary = shards / f".{name}.{os.getpid()}.tmp"
        temporary.mkdir()
        np.save(temporary / "embeddings.npy", np.ascontiguousarray(vectors, dtype=self.manifest.dtype))
        table = pa.Table.from_pylist([row.to_dict() for row in rows], schema=METADATA_SCHEMA)
        pq.write_table(table, temporary / "metadata.parquet")
        digests = {file: file_sha256(temporary / file) for file in ("embeddings.npy", "metadata.parquet")}
        for file in digests:
            fsync_path(temporary / file)
        fsync_path(temporary)
        temporary.rename(shards / name)
        fsync_path(shards)
        return ShardEntry(name=name, rows=len(rows), sha256=digests)

    def _tombstones(self, ids: np.ndarray) -> pa.Table:
        """Present tombstones and one for each live row of ``ids``."""
        tables = [self.snapshot.tombstones]
        for shard in self.snapshot.shards if len(ids) else ():
            dying = np.intersect1d(shard.ids[shard.live_rows], ids)
            tables.append(pa.table({"shard": [shard.name] * len(dying), "id": dying}, schema=TOMBSTONE_SCHEMA))
        return pa.concat_tables(tables)

    def _sweep(self) -> None:
        """Delete what no manifest names: leavings of a killed writer, files of superseded commits."""
        folder, manifest = self.snapshot.folder, self.manifest
        named = {entry.name for entry in manifest.shards}
        for path in (folder / "shards").glob("*"):
            if path.name not in named and path.is_dir():
                shutil.rmtree(path)
        ann = manifest.ann.name if manifest.ann else None
        stale = [path for path in (folder / "ann").glob("*") if path.name != ann]
        stale += [path for path in folder.glob("tombstones-*") if path.name != manifest.tombstones]
        for path in [*stale, *folder.glob(".*.tmp")]:
            path.unlink()


def check_model(snapshot: Snapshot, model: ModelIdentity) -> None:
    """Refuse to mix embeddings of two models.

    Raises:
        StoreError: naming the index's model and the one at hand.
    """
    made = snapshot.manifest.model
    if made.fingerprint != model.fingerprint:
        raise StoreError(
            f"{snapshot.folder} was made by {made.name} ({made.fingerprint}), not by {model.name}"
            f" ({model.fingerprint}); use --model {made.name}, or --index for a second index."
        )


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())
