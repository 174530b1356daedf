"""The writer of an index: each commit is a complete new state, or nothing.

A shard is written under a temporary name, flushed and renamed; then the manifest is replaced. If the process is killed
at any instant, the index is what the last manifest says, and the next writer removes what that does not name.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.base.checksums import CHECKED
from llm2clip_search.base.files import file_sha256, make_folder, replace_file, replaced_file
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.errors import StoreError
from llm2clip_search.store.faults import writing
from llm2clip_search.store.lease import READERS, oldest_lease
from llm2clip_search.store.lock import writer_lock
from llm2clip_search.store.manifest import (
    MANIFEST,
    SHARDS,
    AnnEntry,
    ColumnEntry,
    Manifest,
    ShardEntry,
    SourceEntry,
    has_shards,
)
from llm2clip_search.store.merged_rows import MergedRows
from llm2clip_search.store.schema import (
    METADATA_SCHEMA,
    Failure,
    Row,
    column_entry,
    described,
    failure_bytes,
    parquet_bytes,
)
from llm2clip_search.store.shard import Shard
from llm2clip_search.store.shard_files import write_shard
from llm2clip_search.store.snapshot import ANN, CONTAINERS, FAILURES, Snapshot, check_model, index_folder
from llm2clip_search.store.tombstones import Tombstones
from llm2clip_search.vectorindex.policy import AnnConfig


class Writer:
    """Commits to an index folder; made by `Writer.open`, which holds the lock."""

    def __init__(self, folder: Path, tombstones: Tombstones | None = None) -> None:
        self.snapshot = Snapshot.unleased(folder, tombstones)
        self._written: dict[Path, tuple[str, os.stat_result]] = {}
        """Files since the last commit, with their checksums."""

    @classmethod
    @contextmanager
    def open(
        cls,
        folder: Path,
        *,
        model: ModelIdentity,
        dim: int,
        tombstones: Callable[[], Tombstones | None] = lambda: None,
    ) -> Iterator["Writer"]:
        """Open an index for writing, or start one.

        Args:
            tombstones: called with the lock held; what it gives is taken instead of those on disk, which are damaged,
                and `replace_shards` writes it.

        Raises:
            StoreError: another writer has it open, the folder holds something else or cannot be written, or another
                model made it.
            DamagedError: the manifest or the tombstones are damaged, or there are shards without a manifest.
        """
        folder = index_folder(folder)
        if folder.is_file():
            raise StoreError(f"{folder} is a file, not the folder of an index.", hint="Name a folder with --index.")
        with writing(folder):
            make_folder(folder, parents=True)
            is_new = not (folder / MANIFEST).exists()
            entries = [entry.name for entry in folder.iterdir()] if is_new else []
        if has_shards(folder) and is_new:  # it lost its manifest: a new one would have all its shards swept away
            Manifest.read(folder)
        foreign = sorted(name for name in entries if not name.startswith(("writer.", ".")))
        if not set(foreign) <= {SHARDS, ANN, READERS, CHECKED}:
            raise StoreError(f"{folder} is neither empty nor an index: it holds {foreign[0]!r}.")
        with writer_lock(folder):
            if not (folder / MANIFEST).exists():
                with writing(folder / MANIFEST):
                    Manifest(model=model, dim=dim, base=folder.parent.as_posix()).write(folder)
            writer = cls(folder, tombstones())
            check_model(writer.snapshot, model)
            writer._sweep()
            yield writer
            writer._sweep()  # what this writer itself has replaced; not after an error, when the next one does it

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
        columns: pa.Table | None = None,
        removed: Collection[int] | np.ndarray = (),
        source: SourceEntry | None = None,
    ) -> None:
        """Add a shard, delete rows, or both, in one step.

        A row whose id is in the index already replaces the older row; its vector must be the same, because an id
        names one vector for ever. What it costs does not depend on the number of shards: only those are looked into
        whose id range holds an id that is removed or replaced.

        Args:
            rows: metadata, one per vector.
            vectors: float ``[len(rows), dim]``, unit length.
            columns: further columns, one row per vector; any type that Parquet stores.
            removed: ids to delete.
            source: a corpus to remember, in place of what was remembered of it.

        Raises:
            StoreError: a further column with a fixed column's name, with another type than before, or with a name that
                differs from another one's in case only; a vector that is not finite.
        """
        manifest, shards = self.manifest, self.manifest.shards
        next_id, next_shard = manifest.next_id, manifest.next_shard
        known = self._columns(columns)
        if rows:
            assert vectors is not None, "rows come with their vectors"
            assert vectors.shape == (len(rows), manifest.dim), "one vector per row"
            if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
                raise StoreError(f"The vector of {rows[bad[0]].path} is not finite; {len(bad)} of {len(rows)} are not.")
            assert columns is None or len(columns) == len(rows), "one row of further columns per vector"
            table = pa.Table.from_pylist([row.to_dict() for row in rows], schema=METADATA_SCHEMA)
            if columns is not None:
                further = [pa.field(field.name, field.type) for field in columns.schema]
                schema = pa.schema([*METADATA_SCHEMA, *further], metadata=METADATA_SCHEMA.metadata)
                table = pa.Table.from_arrays([*table.columns, *columns.columns], schema=schema)
            entry = self._write_shard(f"{next_shard:06d}", [table], [vectors], rows=len(rows))
            shards, next_shard = (*shards, entry), next_shard + 1
            next_id = max(next_id, entry.last_id + 1)
        replaced = [row.id for row in rows if row.id < manifest.next_id]
        dying = np.fromiter(removed, dtype=np.int64, count=len(removed))
        tombstones = self._with_dead(np.unique(np.concatenate([dying, np.array(replaced, dtype=np.int64)])))
        sources = manifest.sources if source is None else _with_source(manifest.sources, source)
        self._publish(
            manifest.next(shards=shards, next_id=next_id, next_shard=next_shard, columns=known, sources=sources),
            tombstones,
        )

    def append(self, table: pa.Table, blocks: Iterable[np.ndarray]) -> None:
        """Add a shard of new rows in one commit; for rows that are a table already, such as those of another index.

        Args:
            table: the columns of `METADATA_SCHEMA`, with ids of `allocate`, and further ones.
            blocks: their vectors ``[m, dim]``, in order; those of the index's own dtype keep their bits.

        Raises:
            StoreError: as `commit`.
        """
        manifest = self.manifest
        columns = self._columns(table.drop_columns(METADATA_SCHEMA.names))
        entry = self._write_shard(f"{manifest.next_shard:06d}", [table], blocks, rows=len(table))
        assert entry.first_id >= manifest.next_id, "ids name one vector for ever"
        self._publish(
            manifest.next(
                shards=(*manifest.shards, entry),
                next_id=entry.last_id + 1,
                next_shard=manifest.next_shard + 1,
                columns=columns,
            )
        )

    def replace_shards(
        self,
        merged: Mapping[str, Sequence[Shard]],
        *,
        dropped: Collection[str] = (),
        change: Callable[[pa.Table], pa.Table] = lambda table: table,
        sources: Sequence[SourceEntry] | None = None,
        base: str | None = None,
    ) -> None:
        """Put new shards with the live rows of some shards in their place, in one commit.

        Args:
            merged: shards by the name of the new one, which is the next free number and those after it.
            dropped: names of shards that get no replacement: without live rows, or set aside by a repair.
            change: from the metadata of some rows, in blocks, to what it shall be; ids and the number of rows stay.
            sources, base: as for `set_sources`, if they change too.
        """
        manifest = self.manifest
        replaced = {shard.name for shards in merged.values() for shard in shards} | set(dropped)
        added = [self._merge(name, shards, change) for name, shards in merged.items()]
        ann = manifest.ann
        if ann is not None:
            covered = tuple(n for n, shards in merged.items() if all(s.name in ann.shards for s in shards))
            ann = replace(ann, shards=(*(name for name in ann.shards if name not in replaced), *covered))
        kept = tuple(entry for entry in manifest.shards if entry.name not in replaced)
        self._publish(
            manifest.next(
                shards=tuple(sorted((*kept, *added), key=lambda entry: (entry.first_id, entry.name))),
                next_shard=manifest.next_shard + len(added),
                ann=ann,
                sources=manifest.sources if sources is None else tuple(sources),
                base=manifest.base if base is None else base,
            ),
            self.snapshot.tombstones.without(frozenset(replaced)),
        )

    def set_sources(self, sources: Sequence[SourceEntry], *, base: str) -> None:
        """Say what the index is made from, and that its paths are right where ``base`` is the folder it lies in."""
        if (tuple(sources), base) != (self.manifest.sources, self.manifest.base):
            self._publish(self.manifest.next(sources=tuple(sources), base=base))

    def record_failures(
        self, failures: Iterable[Failure], *, under: str, kept: Callable[[str], bool] = lambda path: False
    ) -> None:
        """Replace the failures of the corpus ``under``; those of other corpora stay.

        Args:
            kept: of the corpus's failures, those of which this is true for the path stay too.
        """
        former = (Failure(**row) for row in self.snapshot.failures())
        staying = [
            failure
            for failure in former
            if not (failure.corpus == under or self.snapshot.is_under(failure.path, under)) or kept(failure.path)
        ]
        self.replace_failures([*staying, *failures])

    def record_containers(self, table: pa.Table) -> None:
        """Say which containers have been read to their end, as `CONTAINER_SCHEMA`; an entry counts only while the
        index has all of its rows."""
        path = self.snapshot.folder / CONTAINERS
        with self._writing(path):
            if len(table):
                replace_file(path, parquet_bytes(table))
            else:
                path.unlink(missing_ok=True)

    def replace_failures(self, failures: Sequence[Failure]) -> None:
        """Replace all failures."""
        with self._writing(self.snapshot.folder / FAILURES):
            replace_file(self.snapshot.folder / FAILURES, failure_bytes(failures))
        self._publish(self.manifest.next(failures=len(failures)))

    def publish_ann(self, save: Callable[[Path], None], entry: AnnEntry, config: AnnConfig) -> AnnEntry:
        """Write an approximate index with ``save`` and make it the index's own.

        Args:
            entry: what it is; its name and checksum are filled in.
            config: how it was chosen.
        """
        folder = self.snapshot.folder / ANN
        name = f"{self.manifest.generation + 1:08d}.faiss"
        with self._writing(folder / name):
            make_folder(folder)
            with replaced_file(folder / name) as path:
                save(path)
            entry = replace(entry, name=name, sha256=file_sha256(folder / name))
            self._written[folder / name] = (str(entry.sha256), (folder / name).stat())
        self.set_ann(entry, config)
        return entry

    def set_ann(self, entry: AnnEntry | None, config: AnnConfig) -> None:
        """Say what the approximate index is and how it was chosen; without an entry, search is exact."""
        if (entry, config) != (self.manifest.ann, self.manifest.ann_config):
            self._publish(self.manifest.next(ann=entry, ann_config=config))

    def _writing(self, path: Path) -> AbstractContextManager[None]:
        """`writing`, which says that the last commit is as it was."""
        live = self.manifest.live
        return writing(path, kept=f"; the {live:,} images committed so far are kept" if live else "")

    def _publish(self, manifest: Manifest, tombstones: Tombstones | None = None) -> None:
        """Make a manifest the index's; changed tombstones are written first, and rows counted anew."""
        if tombstones is not None and tombstones is not self.snapshot.tombstones:
            name, digest = None, None
            if len(tombstones):
                name = f"tombstones-{manifest.generation:08d}.parquet"
                with self._writing(self.snapshot.folder / name):
                    replace_file(self.snapshot.folder / name, parquet_bytes(tombstones.to_table()))
                    digest = file_sha256(self.snapshot.folder / name)
            manifest = replace(manifest, tombstones=name, tombstones_sha256=digest)
        tombstones = self.snapshot.tombstones if tombstones is None else tombstones
        dead = len(tombstones)
        manifest = replace(manifest, live=sum(entry.rows for entry in manifest.shards) - dead, dead=dead)
        with self._writing(self.snapshot.folder / MANIFEST):
            manifest.write(self.snapshot.folder)
        self.snapshot = self.snapshot.after(manifest, tombstones)
        named = {f"{SHARDS}/{entry.name}/{file}" for entry in manifest.shards for file in entry.sha256}
        ann = {f"{ANN}/{manifest.ann.name}"} if manifest.ann else set()
        self.snapshot.checked.note(self._written, keep=(named | ann).__contains__)
        self._written = {}

    def _columns(self, table: pa.Table | None) -> tuple[ColumnEntry, ...]:
        """The manifest's further columns and those of a table."""
        known = {column.name: column for column in self.manifest.columns}
        spelling = {name.casefold(): name for name in known}
        for field in table.schema if table is not None else ():
            entry = column_entry(field)
            spelt = spelling.setdefault(field.name.casefold(), field.name)
            if field.name not in known and spelt != field.name:
                raise StoreError(f"Columns {spelt!r} and {field.name!r} would be the same one in SQL.")
            if field.name.casefold() in METADATA_SCHEMA.names:
                raise StoreError(f"A corpus cannot bring a column {field.name!r}: the index has one of its own.")
            if known.setdefault(field.name, entry).arrow != entry.arrow:
                raise StoreError(
                    f"Column {field.name!r} is {entry.type} here, but {known[field.name].type} in the index."
                )
        return tuple(known.values())

    def _merge(self, name: str, shards: Sequence[Shard], change: Callable[[pa.Table], pa.Table]) -> ShardEntry:
        """A shard of the live rows of some shards, in the order of their ids; vectors keep their bits."""
        merged = MergedRows(shards, self.snapshot.schema)
        return self._write_shard(name, map(change, merged.tables()), merged.blocks(), rows=len(merged))

    def _write_shard(
        self, name: str, tables: Iterable[pa.Table], blocks: Iterable[np.ndarray], *, rows: int
    ) -> ShardEntry:
        """Write a shard: metadata and vectors, arguments as of `write_shard`."""
        shards, manifest = self.snapshot.folder / SHARDS, self.manifest
        tables = (described(table, manifest.model) for table in tables)
        with self._writing(shards / name):
            entry = write_shard(shards / name, tables, blocks, rows=rows, dim=manifest.dim, dtype=manifest.dtype)
            for file, sha256 in entry.sha256.items():
                self._written[shards / name / file] = (sha256, (shards / name / file).stat())
        return entry

    def _with_dead(self, ids: np.ndarray) -> Tombstones:
        """The present tombstones, and one for each live row of ``ids``, int64 ascending; the same object if none."""
        dying: dict[str, np.ndarray] = {}
        for shard in self.snapshot.shards if len(ids) else ():
            positions, _ = shard.find(ids)
            if len(positions):
                dying[shard.name] = ids[positions]
        return self.snapshot.tombstones.with_dead(dying) if dying else self.snapshot.tombstones

    def _sweep(self) -> None:
        """Delete what no manifest names: leftovers of a killed writer, and files that later commits replaced.

        Replaced files stay while a reader has an earlier generation open. They are told from leftovers by their
        numbers, which a commit that never happened has not used up. What cannot be deleted is left to the next writer:
        all that counts is committed by then.
        """
        folder, manifest = self.snapshot.folder, self.manifest
        oldest = oldest_lease(folder)
        in_use = oldest is not None and oldest < manifest.generation
        named = {entry.name for entry in manifest.shards}
        for path in (folder / "shards").glob("*"):
            spared = in_use and path.name.isdecimal() and int(path.name) < manifest.next_shard
            if path.name not in named and path.is_dir() and not spared:
                shutil.rmtree(path, ignore_errors=True)
        current = {manifest.tombstones, manifest.ann.name if manifest.ann else None}
        for path in [*(folder / ANN).glob("*"), *folder.glob("tombstones-*")]:
            generation = path.stem.removeprefix("tombstones-")
            spared = in_use and generation.isdecimal() and int(generation) <= manifest.generation
            if path.name not in current and not spared:
                with suppress(OSError):
                    path.unlink()
        for path in folder.glob(".*.tmp"):
            with suppress(OSError):
                path.unlink()


def _with_source(sources: Sequence[SourceEntry], source: SourceEntry) -> tuple[SourceEntry, ...]:
    """Sources and one more, or one in place of what was known of it."""
    return tuple({**{(s.uri, s.modality): s for s in sources}, (source.uri, source.modality): source}.values())
