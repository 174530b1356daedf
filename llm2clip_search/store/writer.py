"""The writer of an index: each commit is a complete new state, or nothing.

A shard is written under a temporary name, flushed and renamed; then the manifest is replaced. If the process is killed
at any instant, the index is what the last manifest says, and the next writer removes what that does not name.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.base.files import file_sha256, fsync_path, replace_file, replaced_file
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.errors import StoreError
from llm2clip_search.store.lease import READERS, oldest_lease
from llm2clip_search.store.lock import writer_lock
from llm2clip_search.store.manifest import MANIFEST, AnnEntry, Manifest, ShardEntry
from llm2clip_search.store.schema import FAILURE_SCHEMA, METADATA_SCHEMA, TOMBSTONE_SCHEMA, Failure, Row
from llm2clip_search.store.snapshot import ANN, Snapshot, plain_path

FAILURES = "failures.parquet"


class Writer:
    """Commits to an index folder; made by `Writer.open`, which holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.snapshot = Snapshot(folder, leased=False)

    @classmethod
    @contextmanager
    def open(cls, folder: Path, *, model: ModelIdentity, dim: int) -> Iterator["Writer"]:
        """Open an index for writing, or start one.

        Raises:
            StoreError: another writer has it open, the folder holds something else, or another model made it.
        """
        folder = plain_path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be created: {error.strerror}.", hint="Name another folder with --index."
            ) from error
        if not (folder / MANIFEST).exists():
            foreign = [entry.name for entry in folder.iterdir() if not entry.name.startswith(("writer.", "."))]
            if foreign and not set(foreign) <= {"shards", ANN, READERS}:
                raise StoreError(f"{folder} is neither empty nor an index: it holds {sorted(foreign)[0]!r}.")
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
        """The next ``count`` ids; they are used up once a commit contains them."""
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

        A row whose id is in the index already replaces the older row; its vector must be the same, because an id
        names one vector for ever.

        Args:
            rows: metadata, one per vector.
            vectors: float ``[len(rows), dim]``, unit length.
            removed: ids to delete.
            root: a corpus to remember, as the metadata writes paths and URIs.
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
        """Replace the failures of the corpus ``under``; those of other corpora stay."""
        path = self.snapshot.folder / FAILURES
        kept: list[dict[str, str]] = []
        if path.exists():
            try:
                recorded = pq.read_table(path).to_pylist()
            except (OSError, pa.ArrowException) as error:
                raise StoreError(
                    f"{path} cannot be read: {error}.", hint="Delete it; the next run writes a new one."
                ) from error
            kept = [row for row in recorded if not self.snapshot.is_under(row["path"], under)]
        found = [*kept, *(failure.to_dict() for failure in failures)]
        replace_file(path, _parquet(pa.Table.from_pylist(found, schema=FAILURE_SCHEMA)))
        self._publish(self.manifest.next(failures=len(found)))

    def publish_ann(
        self,
        save: Callable[[Path], None],
        *,
        factory: str,
        rows: int,
        trained_on: int,
        shards: tuple[str, ...],
        recall_at_10: float,
    ) -> AnnEntry:
        """Write an approximate index with ``save`` and make it the index's own; arguments as in `AnnEntry`."""
        folder = self.snapshot.folder / ANN
        folder.mkdir(exist_ok=True)
        name = f"{self.manifest.generation + 1:08d}.faiss"
        with replaced_file(folder / name) as path:
            save(path)
        entry = AnnEntry(
            name=name,
            factory=factory,
            rows=rows,
            trained_on=trained_on,
            shards=shards,
            recall_at_10=recall_at_10,
        )
        self._publish(self.manifest.next(ann=entry))
        return entry

    def drop_ann(self) -> None:
        """Return to exact search."""
        self._publish(self.manifest.next(ann=None))

    def _publish(self, manifest: Manifest) -> None:
        manifest.write(self.snapshot.folder)
        self.snapshot = Snapshot(self.snapshot.folder, leased=False)

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
        """The present tombstones, and one for each live row of ``ids``."""
        tables = [self.snapshot.tombstones]
        for shard in self.snapshot.shards if len(ids) else ():
            dying = np.intersect1d(shard.ids[shard.live_rows], ids)
            tables.append(pa.table({"shard": [shard.name] * len(dying), "id": dying}, schema=TOMBSTONE_SCHEMA))
        return pa.concat_tables(tables)

    def _sweep(self) -> None:
        """Delete what no manifest names: leftovers of a killed writer, and files that later commits replaced.

        Replaced files stay while a reader has an earlier generation open. They are told from leftovers by their
        numbers, which a commit that never happened has not used up.
        """
        folder, manifest = self.snapshot.folder, self.manifest
        oldest = oldest_lease(folder)
        in_use = oldest is not None and oldest < manifest.generation
        named = {entry.name for entry in manifest.shards}
        for path in (folder / "shards").glob("*"):
            spared = in_use and path.name.isdecimal() and int(path.name) < manifest.next_shard
            if path.name not in named and path.is_dir() and not spared:
                shutil.rmtree(path)
        current = {manifest.tombstones, manifest.ann.name if manifest.ann else None}
        for path in [*(folder / ANN).glob("*"), *folder.glob("tombstones-*")]:
            generation = path.stem.removeprefix("tombstones-")
            spared = in_use and generation.isdecimal() and int(generation) <= manifest.generation
            if path.name not in current and not spared:
                path.unlink()
        for path in folder.glob(".*.tmp"):
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
            f" ({model.fingerprint}).",
            hint=f"Use --model {made.name}, or name a second index with --index.",
        )


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())
