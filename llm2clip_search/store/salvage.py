"""What can be told of an index without its manifest or its tombstones: from the shards themselves."""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.base.files import file_sha256, replace_file
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.mapping import map_array
from llm2clip_search.errors import DamagedError, StoreError
from llm2clip_search.store.lease import READERS
from llm2clip_search.store.lost import as_lost
from llm2clip_search.store.manifest import MANIFEST, SHARDS, ColumnEntry, Manifest, ShardEntry, SourceEntry, has_shards
from llm2clip_search.store.row_files import ArrowRows, RowFile
from llm2clip_search.store.schema import METADATA_SCHEMA, column_entry, maker, parquet_bytes
from llm2clip_search.store.shard import METADATA, ROWS, VECTORS, Shard
from llm2clip_search.store.shard_files import are_relative
from llm2clip_search.store.snapshot import ANN
from llm2clip_search.store.tombstones import NOTHING, Tombstones


class TwinShard(Shard):
    """A shard whose ``metadata.parquet`` is damaged; ``rows.arrow`` holds the same rows."""

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(self._table().column_names)

    def read(self, columns: list[str]) -> pa.Table:
        table = self._table()
        return table.select([name for name in columns if name in table.column_names])

    @cached_property
    def _metadata_file(self) -> RowFile:
        return ArrowRows(self.folder / ROWS, self.entry.rows)

    def _table(self) -> pa.Table:
        with self._metadata_file.reading() as file:
            table = file.read(list(range(len(file.sizes))))
        if table.num_rows != self.entry.rows:
            raise DamagedError(f"{file.path} has {table.num_rows} rows, but the manifest says {self.entry.rows}.")
        return table


def readable(shard: Shard, dim: int, *, suspect: frozenset[str] = frozenset()) -> Shard | None:
    """A shard that gives the metadata, from whichever of its two files can be read; None if neither can.

    Args:
        suspect: files that differ from their checksum, and are taken only if the other cannot be read.
    """
    as_it_is = Shard(shard.folder, shard.entry, shard.dead, dim)
    twin = TwinShard(shard.folder, shard.entry, shard.dead, dim)
    order = (twin, as_it_is) if METADATA in suspect and ROWS not in suspect else (as_it_is, twin)
    for each in order:
        try:
            each.read(["id", "path", "corpus"]).validate(full=True)
        except (StoreError, pa.ArrowException):
            continue
        return each
    return None


def superseded(shards: Iterable[Shard], known: Tombstones) -> Tombstones:
    """Tombstones as far as shards give them: a row is dead if a later shard holds its id or its path.

    What was deleted without a successor comes back; the next run over its source finds that it is gone.

    Args:
        shards: those whose metadata can be read.
        known: rows that are dead for certain.
    """
    ids, paths = NOTHING, NOTHING
    dead = known
    # A merged shard holds live rows only, so of two shards with one id the one with the higher number is the later.
    for shard in sorted(shards, key=lambda each: each.name, reverse=True):
        own = np.fromiter(map(hash, shard.read(["path"]).column("path").to_pylist()), dtype=np.int64)
        gone = np.isin(shard.ids, ids) | np.isin(own, paths)
        dead = dead.with_dead({shard.name: np.sort(shard.ids[gone])})
        ids, paths = np.union1d(ids, shard.ids), np.union1d(paths, own)
    return dead


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A shard's folder, as its files describe it."""

    entry: ShardEntry
    shape: tuple[int, ...] | None
    """Of the vectors; None if they cannot be read."""
    dtype: str
    model: ModelIdentity | None
    columns: tuple[ColumnEntry, ...]
    sources: tuple[SourceEntry, ...]
    """Corpora that its rows came from, by URI and modality; how they were read is not known."""


def rebuild_manifest(folder: Path, model: ModelIdentity | None) -> Manifest:
    """Write a manifest from the shards of a folder that has lost its own; shards that cannot be read are left out.

    How approximate search was configured is lost, and of each source how it is read, but for its modality. Ids of
    images that were deleted, or whose shard cannot be read, may be given again if the old manifest does not give the
    next one.

    Args:
        model: the one that made the index, for shards of earlier versions, which do not say it.

    Raises:
        StoreError: no shard can be read, or their model is not known.
    """
    if not has_shards(folder):
        raise StoreError(
            f"{folder / MANIFEST} cannot be rebuilt: there are no shards.", hint="Delete it and index again."
        )
    folders = sorted(path for path in (folder / SHARDS).iterdir() if path.name.isdecimal())
    found = [each for each in map(_find, folders) if each is not None]
    shapes = {(each.shape[1], each.dtype) for each in found if each.shape is not None}
    if len(shapes) != 1:
        raise StoreError(f"{folder / MANIFEST} cannot be rebuilt: the shards hold {len(shapes)} kinds of vectors.")
    made = {each.model.fingerprint: each.model for each in found if each.model is not None}
    if len(made) > 1:
        raise StoreError(f"{folder / MANIFEST} cannot be rebuilt: {len(made)} models made the shards.")
    identity = next(iter(made.values()), model)
    if identity is None:
        raise StoreError(
            f"{folder / MANIFEST} cannot be rebuilt: an earlier version wrote the shards, which do not say which model"
            " made them.",
            hint="Name it with --model.",
        )
    [(dim, dtype)] = shapes
    entries = tuple(each.entry for each in found)
    dead = _last_tombstones(folder, entries)
    shards = [Shard(folder / SHARDS / each.name, each, dead.of(each.name), dim) for each in entries]
    dead = superseded([each for shard in shards if (each := readable(shard, dim))], dead)
    # Engines and caches take a lower generation for an older copy. No index commits once a second all its life, so the
    # present time is above any that was there, also where the number itself is what is damaged.
    generation = 1 + max([int(time.time()), *_generations(folder), *_former(folder, "generation")])
    manifest = Manifest(
        generation=generation,
        model=identity,
        dim=dim,
        dtype=dtype,
        next_id=max([*(entry.last_id + 1 for entry in entries), *_former(folder, "next_id")]),
        next_shard=int(max(path.name for path in folders)) + 1,
        shards=tuple(sorted(entries, key=lambda entry: (entry.first_id, entry.name))),
        live=sum(entry.rows for entry in entries) - len(dead),
        dead=len(dead),
        sources=tuple(dict.fromkeys(source for each in found for source in each.sources)),
        base=folder.parent.as_posix(),
        columns=tuple({column.name: column for each in found for column in each.columns}.values()),
    )
    if len(dead):
        name = f"tombstones-{generation:08d}.parquet"
        replace_file(folder / name, parquet_bytes(dead.to_table()))
        manifest = replace(manifest, tombstones=name, tombstones_sha256=file_sha256(folder / name))
    manifest.write(folder)
    return manifest


def _find(folder: Path) -> _Found | None:
    """What the files of a shard say; None if its metadata cannot be read. A file that is missing or cannot be read
    gets a checksum that no file has."""
    tables = {METADATA: _parquet_table(folder / METADATA), ROWS: _arrow_table(folder / ROWS)}
    table = tables[METADATA] if tables[METADATA] is not None else tables[ROWS]
    if table is None or not len(table):
        return None
    try:
        vectors = map_array(folder / VECTORS)
        shape = vectors.shape if vectors.ndim == 2 and len(vectors) == len(table) else None
        dtype = str(vectors.dtype)
    except (OSError, ValueError):
        shape, dtype = None, ""
    model = maker(table.schema)
    if model is None and not (folder / ROWS).exists():  # a schema that had no such file
        del tables[ROWS]
    sound = {VECTORS: shape is not None, **{name: each is not None for name, each in tables.items()}}
    ids = table.column("id").to_numpy()
    of_rows = as_lost(table).group_by(["corpus", "modality"], use_threads=False).aggregate([]).to_pylist()
    sources = (SourceEntry(uri=row["corpus"], modality=row["modality"] or "image") for row in of_rows if row["corpus"])
    return _Found(
        entry=ShardEntry(
            name=folder.name,
            rows=len(table),
            first_id=int(ids.min()),
            last_id=int(ids.max()),
            relative=are_relative(table.column("path")),
            sha256={name: file_sha256(folder / name) if is_sound else "" for name, is_sound in sound.items()},
        ),
        shape=shape,
        dtype=dtype,
        model=model,
        columns=tuple(column_entry(field) for field in table.schema if field.name not in METADATA_SCHEMA.names),
        sources=tuple(sources),
    )


def _parquet_table(path: Path) -> pa.Table | None:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        table.validate(full=True)
    except (OSError, pa.ArrowException):
        return None
    return table if {"id", "path"} <= set(table.column_names) else None


def _arrow_table(path: Path) -> pa.Table | None:
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)
    except (OSError, pa.ArrowException):
        return None
    return table if {"id", "path"} <= set(table.column_names) else None


def _last_tombstones(folder: Path, entries: Sequence[ShardEntry]) -> Tombstones:
    """The newest tombstones that can be read, without those of other shards."""
    names = {entry.name for entry in entries}
    for path in sorted(folder.glob("tombstones-*.parquet"), reverse=True):
        try:
            found = Tombstones.read(path, None)
        except StoreError:
            continue
        return found.without(found.shards - names)
    return Tombstones()


def _generations(folder: Path) -> list[int]:
    """Generations that files are named for."""
    paths = [*folder.glob("tombstones-*"), *(folder / ANN).glob("*"), *(folder / READERS).glob("*")]
    names = [path.stem.removeprefix("tombstones-") for path in paths]
    return [int(name) for name in names if name.isdecimal()]


def _former(folder: Path, name: str) -> list[int]:
    """A number that the damaged manifest still gives, as far as its text can be read."""
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError:
        return []
    return [int(value) for value in re.findall(rf'"{name}": ?(\d{{1,12}})\b'.encode(), text)]
