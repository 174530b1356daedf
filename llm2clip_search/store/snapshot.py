"""A reader's view of an index at one manifest, undisturbed by later commits."""

import os
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.base.files import file_sha256
from llm2clip_search.errors import StoreError
from llm2clip_search.store.lease import open_generation
from llm2clip_search.store.manifest import Manifest, ShardEntry
from llm2clip_search.store.schema import METADATA_SCHEMA, TOMBSTONE_SCHEMA

ANN = "ann"
"""Folder of the approximate index's files."""


def plain_path(path: Path) -> Path:
    """An absolute path without ``..``; links are kept as the user wrote them."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps "..", Path.resolve follows links


def is_uri(name: str) -> bool:
    """True for an item that is not a file of this machine: ``scheme://...``."""
    return "://" in name


class Shard:
    """One committed shard: ids in row order, memory-mapped vectors, metadata."""

    def __init__(self, folder: Path, entry: ShardEntry, dead: np.ndarray, dim: int) -> None:
        self.name = entry.name
        self.folder = folder
        self.entry = entry
        self._dead = dead
        self._dim = dim

    @cached_property
    def ids(self) -> np.ndarray:
        """int64 ``[rows]``, dead rows included."""
        ids: np.ndarray = self._read(["id"]).column("id").to_numpy()
        return ids

    @cached_property
    def live_rows(self) -> np.ndarray:
        """Positions within this shard of the live rows, int64 ascending."""
        return np.flatnonzero(~np.isin(self.ids, self._dead))

    @cached_property
    def live_by_id(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the live rows, int64 ascending, and the position of each."""
        ids = self.ids[self.live_rows]
        order = np.argsort(ids, kind="stable")
        return ids[order], self.live_rows[order]

    @cached_property
    def vectors(self) -> np.ndarray:
        """Memory-mapped ``[rows, dim]``.

        Raises:
            StoreError: the file is missing, or its shape differs from the manifest.
        """
        path = self.folder / "embeddings.npy"
        try:
            vectors: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}.") from error
        if vectors.shape != (self.entry.rows, self._dim):
            raise StoreError(
                f"{path} holds {list(vectors.shape)}, but the manifest says {[self.entry.rows, self._dim]}."
            )
        return vectors

    def metadata(self) -> pa.Table:
        """Live rows, in row order, columns of `METADATA_SCHEMA`."""
        return self._read(METADATA_SCHEMA.names).take(pa.array(self.live_rows))

    def _read(self, columns: list[str]) -> pa.Table:
        path = self.folder / "metadata.parquet"
        try:
            table = pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{path} cannot be read: {error}.") from error
        if table.num_rows != self.entry.rows:
            raise StoreError(f"{path} has {table.num_rows} rows, but the manifest says {self.entry.rows}.")
        return table


class Snapshot:
    """An index folder as its manifest stood when this was opened.

    While it exists, writers leave the files of its generation in place (see `lease`).
    """

    def __init__(self, folder: Path, *, leased: bool = True) -> None:
        """Read the manifest; ``leased`` False is for the writer, which alone removes files.

        Raises:
            StoreError: as `Manifest.read`, or tombstones that cannot be read.
        """
        self.folder = plain_path(folder)
        if leased:
            self.manifest, lease = open_generation(self.folder)
            if lease is not None:
                weakref.finalize(self, os.close, lease)
        else:
            self.manifest = Manifest.read(self.folder)
        self.base = self.folder.parent
        """Folder that relative paths in the metadata start from."""
        self.tombstones = self._read_tombstones()
        """Rows that were deleted or replaced, columns of `TOMBSTONE_SCHEMA`."""

    def _read_tombstones(self) -> pa.Table:
        name = self.manifest.tombstones
        if name is None:
            return TOMBSTONE_SCHEMA.empty_table()
        path = self.folder / name
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{path} cannot be read: {error}.") from error

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        names = self.tombstones.column("shard").to_numpy(zero_copy_only=False)
        ids = self.tombstones.column("id").to_numpy()
        dead = {name: ids[names == name] for name in set(names)}
        nothing = np.empty(0, dtype=np.int64)
        return tuple(
            Shard(self.folder / "shards" / e.name, e, dead.get(e.name, nothing), self.manifest.dim)
            for e in self.manifest.shards
        )

    @cached_property
    def live_ids(self) -> np.ndarray:
        """int64 ascending."""
        parts = [shard.ids[shard.live_rows] for shard in self.shards]
        return np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)

    def blocks(self, ids: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Live rows, or those of them in ``ids``, shard by shard: int64 ``[m]``, float32 ``[m, dim]``.

        Ids ascend within a block.
        """
        wanted = None if ids is None else np.unique(ids)
        for shard in self.shards:
            found, rows = shard.live_by_id
            if wanted is not None:
                # Ranking candidates again comes through here, so a few ids must not cost a pass over all rows.
                position = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
                position = position[found[position] == wanted] if len(found) else position[:0]
                found, rows = found[position], rows[position]
            if len(rows):
                yield found, np.asarray(shard.vectors[rows], dtype=np.float32)

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """float32 ``[len(ids), dim]`` in the order of ``ids``, dead rows included.

        Raises:
            StoreError: an id that no shard holds.
        """
        found: dict[int, np.ndarray] = {}
        for shard in self.shards:
            for row in np.flatnonzero(np.isin(shard.ids, np.asarray(ids, dtype=np.int64))):
                found[int(shard.ids[row])] = np.asarray(shard.vectors[row], dtype=np.float32)
        if missing := set(ids) - found.keys():
            raise StoreError(f"No shard of {self.folder} holds id {min(missing)}.")
        return np.stack([found[i] for i in ids]) if ids else np.empty((0, self.manifest.dim), dtype=np.float32)

    def rows(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Metadata of some live rows, in the order of ``ids``; only shards that hold one of them are read."""
        wanted = np.asarray(ids, dtype=np.int64)
        found: dict[int, dict[str, Any]] = {}
        for shard in self.shards:
            if np.isin(shard.ids[shard.live_rows], wanted).any():
                table = shard.metadata()
                mask = np.isin(table.column("id").to_numpy(), wanted)
                found |= {row["id"]: row for row in table.filter(pa.array(mask)).to_pylist()}
        return [found[identifier] for identifier in ids]

    def metadata(self) -> pa.Table:
        """Every live row, columns of `METADATA_SCHEMA`."""
        tables = [shard.metadata() for shard in self.shards]
        return pa.concat_tables(tables) if tables else METADATA_SCHEMA.empty_table()

    @property
    def ann_path(self) -> Path | None:
        """File of the approximate index; None if the index has none."""
        return self.folder / ANN / self.manifest.ann.name if self.manifest.ann else None

    def located(self, path: str) -> str:
        """A metadata path as a caller can use it: an absolute path of this machine, or a URI as it is."""
        return path if is_uri(path) else (self.base / path).as_posix()

    def stored(self, uri: str) -> str:
        """A path or URI as the metadata writes it: paths are posix, and relative if they are below the base."""
        if is_uri(uri):
            return uri
        path = plain_path(Path(uri))
        return (path.relative_to(self.base) if path.is_relative_to(self.base) else path).as_posix()

    def is_under(self, path: str, root: str) -> bool:
        """True if ``path`` is ``root`` or lies below it, both as the metadata writes them."""
        top = self.located(root).rstrip("/")
        # One row at a time, so this is faster than Path.
        full = path if is_uri(path) or os.path.isabs(path) else f"{self.base.as_posix()}/{path}"  # noqa: PTH117
        return full == top or full.startswith(f"{top}/")

    def verify(self) -> None:
        """Compare every named file with its checksum.

        Raises:
            StoreError: the first file that differs or is missing.
        """
        named = [(s.folder / name, digest) for s in self.shards for name, digest in s.entry.sha256.items()]
        if self.manifest.tombstones is not None:
            named.append((self.folder / self.manifest.tombstones, self.manifest.tombstones_sha256 or ""))
        for path, expected in named:
            if not path.is_file() or file_sha256(path) != expected:
                raise StoreError(f"{path} differs from what was committed: its checksum is not the manifest's.")
