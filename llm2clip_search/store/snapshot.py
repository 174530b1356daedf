"""A reader's view of an index at one manifest, undisturbed by later commits."""

import os
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.lazy import LazyModule
from llm2clip_search.errors import DamagedError, StoreError
from llm2clip_search.store.checked import CheckedFiles
from llm2clip_search.store.faults import unreadable
from llm2clip_search.store.lease import open_generation
from llm2clip_search.store.manifest import SHARDS, Manifest
from llm2clip_search.store.names import decode, encode, is_unicode
from llm2clip_search.store.paths import as_mask, beginnings, is_below, located
from llm2clip_search.store.recent_parts import RecentParts
from llm2clip_search.store.schema import CONTAINER_SCHEMA, metadata_schema, read_failures
from llm2clip_search.store.shard import Shard
from llm2clip_search.store.tombstones import Tombstones

pc = LazyModule("pyarrow.compute")
pq = LazyModule("pyarrow.parquet")

FAILURES = "failures.parquet"
CONTAINERS = "containers.parquet"
ANN = "ann"
"""Folder of the approximate index's files."""


def plain_path(path: Path) -> Path:
    """An absolute path without ``..``; links are kept as the user wrote them."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps "..", Path.resolve follows links


def stored_path(uri: str, *, base: str | Path) -> str:
    """See `Snapshot.stored`; ``base`` is the folder that the index lies in, as `plain_path` writes it."""
    if is_uri(uri):
        return encode(uri)
    # As plain strings, because a run asks three times for each file, and `Path` takes ten times as long.
    path, top = os.path.abspath(uri), os.path.join(base, "")  # noqa: PTH100, PTH118
    if os.path.normcase(path) == os.path.normcase(base):
        path = "."
    elif os.path.normcase(path).startswith(os.path.normcase(top)):
        path = path[len(top) :]
    return encode(path.replace(os.sep, "/"))


def index_folder(path: Path) -> Path:
    """The folder of an index as `plain_path` writes it.

    Raises:
        StoreError: its name is not UTF-8, so that Arrow and DuckDB cannot open files in it.
    """
    folder = plain_path(path)
    if not is_unicode(str(folder)):
        raise StoreError(
            f"The name of the index folder {folder} is not valid UTF-8.", hint="Name a folder elsewhere with --index."
        )
    return folder


def is_uri(name: str) -> bool:
    """True for an item that is not a file of this machine: ``scheme://...``."""
    return "://" in name


BLOCK_ROWS = 32_768
"""Rows per block: 64 MB as float32 of 512 dimensions, whatever the size of a shard."""


@dataclass(frozen=True)
class ShardVectors:
    """The live vectors of some shards."""

    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return sum(shard.entry.rows - len(shard.dead) for shard in self.shards)

    def blocks(self, ids: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Live rows, or those of them in ``ids``, `BLOCK_ROWS` at a time: int64 ``[m]``, float32 ``[m, dim]``.

        Ids ascend within a block.
        """
        wanted = None if ids is None else _ascending(ids)
        for shard in self.shards:
            if wanted is None:
                found, rows = shard.by_id
            else:
                # Ranking candidates again comes through here, so a few ids must not cost a pass over all rows.
                positions, rows = shard.find(wanted)
                found = wanted[positions]
            for start in range(0, len(rows), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                yield found[part], shard.vectors[_run(rows[part])].astype(np.float32)


def _run(rows: np.ndarray) -> np.ndarray | slice:
    """A slice for rows that follow each other, which are then converted without being copied first."""
    if bool((rows[1:] - rows[:-1] == 1).all()):
        return slice(int(rows[0]), int(rows[0]) + len(rows))
    return rows


def _ascending(ids: np.ndarray) -> np.ndarray:
    """Sorted, each once. Ids of a filter are that already, and ``np.unique`` takes a second for a million."""
    if bool((ids[1:] > ids[:-1]).all()):
        return ids
    ordered = np.sort(ids, kind="stable")
    kept: np.ndarray = ordered[np.append(True, ordered[1:] > ordered[:-1])]
    return kept


class Snapshot:
    """An index folder as its manifest stood when this was opened; `verification.verify_index` checks its files.

    While it exists, writers leave the files of its generation in place (see `lease`). A file is compared with its
    checksum when it is first used, unless it has not changed since that was done (see `checked`).
    """

    def __init__(self, folder: Path) -> None:
        """Read the manifest and the tombstones.

        Raises:
            StoreError: as `Manifest.read`, or tombstones that cannot be read.
        """
        folder = index_folder(folder)
        manifest, lease = open_generation(folder)
        if lease is not None:
            weakref.finalize(self, os.close, lease)
        self._set(folder, manifest, _read_tombstones(folder, manifest), CheckedFiles(folder))

    @classmethod
    def unleased(cls, folder: Path, tombstones: Tombstones | None = None) -> "Snapshot":
        """For the writer, which alone removes files; arguments and errors as of the constructor.

        Args:
            tombstones: to take instead of those on disk, which are damaged.
        """
        folder = index_folder(folder)
        manifest = Manifest.read(folder)
        snapshot = cls.__new__(cls)
        tombstones = _read_tombstones(folder, manifest) if tombstones is None else tombstones
        snapshot._set(folder, manifest, tombstones, CheckedFiles(folder))
        return snapshot

    def after(self, manifest: Manifest, tombstones: Tombstones) -> "Snapshot":
        """The snapshot of a commit that follows this one; what was read of shards is kept, so that a commit does not
        get slower as shards add up."""
        snapshot = type(self).__new__(type(self))
        snapshot._set(self.folder, manifest, tombstones, self.checked, {shard.name: shard for shard in self.shards})
        return snapshot

    def _set(
        self,
        folder: Path,
        manifest: Manifest,
        tombstones: Tombstones,
        checked: CheckedFiles,
        read: Mapping[str, Shard] | None = None,
    ) -> None:
        self.folder, self.manifest, self.tombstones, self.checked = folder, manifest, tombstones, checked
        self.base = folder.parent
        """Folder that relative paths in the metadata start from."""
        self._recent = RecentParts()
        known = read or {}
        self.shards = tuple(
            known[entry.name].with_dead(tombstones.of(entry.name))
            if entry.name in known
            else Shard(folder / SHARDS / entry.name, entry, tombstones.of(entry.name), manifest.dim, checked)
            for entry in manifest.shards
        )

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all shards."""
        return frozenset(shard.name for shard in self.shards)

    def only(self, names: Collection[str]) -> "ShardVectors":
        """The vectors of some shards."""
        return ShardVectors(tuple(shard for shard in self.shards if shard.name in names))

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns of the metadata: the fixed ones, and those that corpora brought along."""
        return metadata_schema(self.manifest.columns)

    @cached_property
    def live_ids(self) -> np.ndarray:
        """int64 ascending."""
        parts = [shard.live_ids for shard in self.shards]
        return np.sort(np.concatenate(parts), kind="stable") if parts else np.empty(0, dtype=np.int64)

    @property
    def modalities(self) -> frozenset[str]:
        """What the rows are, image or text, by what the sources were read as."""
        return frozenset(source.modality for source in self.manifest.sources) or frozenset({"image"})

    def text_ids(self) -> np.ndarray:
        """Ids of the live rows that are texts, int64 ascending."""
        found = [np.empty(0, dtype=np.int64)]
        for shard in self.shards:
            table = shard.read(["id", "modality"]).take(pa.array(shard.live_rows))
            if "modality" in table.column_names:  # not before schema 5, which knew images only
                texts = table.filter(pc.equal(table.column("modality"), "text"))
                found.append(texts.column("id").to_numpy())
        return np.sort(np.concatenate(found), kind="stable")

    def __contains__(self, identifier: int) -> bool:
        """True if a live row has the id."""
        if not 0 <= identifier < self.manifest.next_id:
            return False
        ids = np.array([identifier], dtype=np.int64)
        return any(len(shard.find(ids)[0]) for shard in self.shards)

    def blocks(self, ids: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `ShardVectors.blocks`, of all shards."""
        return ShardVectors(self.shards).blocks(ids)

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """float32 ``[len(ids), dim]`` in the order of ``ids``, dead rows included.

        Raises:
            StoreError: an id that no shard holds.
        """
        wanted, inverse = np.unique(np.asarray(ids, dtype=np.int64), return_inverse=True)
        out = np.empty((len(wanted), self.manifest.dim), dtype=np.float32)
        missing = np.ones(len(wanted), dtype=bool)
        for shard in self.shards:
            positions, rows = shard.find(wanted, live=False)
            if len(rows):
                out[positions] = shard.vectors[rows]
                missing[positions] = False
        if missing.any():
            raise StoreError(f"No shard of {self.folder} holds id {int(wanted[missing][0])}.")
        return out[inverse]

    def rows(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Metadata of some live rows, in the order of ``ids``; only shards that hold one of them are read."""
        wanted, inverse = np.unique(np.asarray(ids, dtype=np.int64), return_inverse=True)
        names, found = self.schema.names, dict[int, dict[str, Any]]()
        for shard in self.shards:
            positions, rows = shard.find(wanted)
            if len(rows):
                read = shard.records(rows, self._recent)
                if [row.get("id") for row in read] != wanted[positions].tolist():
                    raise DamagedError(f"{shard.folder} gives other images than those of its ids; a file is damaged.")
                complete = ({name: row.get(name) for name in names} for row in read)
                found |= zip(positions.tolist(), complete, strict=True)
        return [found[position] for position in inverse.tolist()]

    def metadata(self) -> pa.Table:
        """Every live row, columns of `schema`."""
        tables = [shard.metadata(self.schema) for shard in self.shards]
        return pa.concat_tables(tables) if tables else self.schema.empty_table()

    @property
    def ann_path(self) -> Path | None:
        """File of the approximate index; None if the index has none."""
        return self.folder / ANN / self.manifest.ann.name if self.manifest.ann else None

    def confirm_ann(self, *, again: bool = False) -> None:
        """Compare the file of the approximate index with its checksum, unless it has not changed since that was done:
        FAISS maps it, and follows whatever links a damaged file holds.

        Args:
            again: compare it in any case.

        Raises:
            DamagedError: it is missing or another one.
            StoreError: it cannot be reached.
        """
        if self.ann_path is not None and self.manifest.ann is not None:
            self.checked.confirm(self.ann_path, self.manifest.ann.sha256, again=again)

    def located(self, path: str) -> str:
        """A metadata path as a caller can use it: an absolute path of this machine, or a URI as it is."""
        name = decode(path)
        if is_uri(name) or os.path.isabs(name):  # noqa: PTH117 - a page of results asks fifty times, and `Path` is slow
            return name
        return self.base.as_posix() if name == "." else f"{self._top}/{name}"

    def stored(self, uri: str) -> str:
        """A path or URI as the metadata writes it: paths are posix, and relative if they are below the base."""
        return stored_path(uri, base=self.base)

    @cached_property
    def stored_base(self) -> str:
        """The base as the metadata writes absolute paths, without a slash at its end."""
        return encode(self.base.as_posix()).rstrip("/")

    @cached_property
    def _top(self) -> str:
        """The base without a slash at its end."""
        return self.base.as_posix().rstrip("/")

    def is_under(self, path: str, root: str) -> bool:
        """True if ``path`` is ``root`` or lies below it, both as the metadata writes them."""
        top = encode(self.located(root)).rstrip("/")
        # One row at a time, so this is faster than Path.
        full = path if is_uri(path) or os.path.isabs(path) else f"{self.stored_base}/{path}"  # noqa: PTH117
        return full == top or full.startswith(beginnings(top))

    def live_paths(self) -> Iterator[tuple[Shard, pa.ChunkedArray]]:
        """Stored paths of the live rows, in row order, one shard at a time."""
        for shard in self.shards:
            paths = shard.read(["path"]).column("path")
            yield shard, paths.take(pa.array(shard.live_rows)) if len(shard.dead) else paths

    def paths(self, ids: np.ndarray) -> dict[int, str]:
        """Stored paths of the live rows among some ids, which are int64 ascending."""
        found: dict[int, str] = {}
        for shard in self.shards:
            positions, rows = shard.find(ids)
            if len(rows):
                found |= zip(ids[positions].tolist(), shard.rows(rows).column("path").to_pylist(), strict=True)
        return found

    def below(self, paths: pa.ChunkedArray, root: str) -> np.ndarray:
        """As `is_under` for a column of stored paths, bool ``[n]``."""
        [top] = located(pa.chunked_array([[root]], pa.string()), self.stored_base).to_pylist()
        return as_mask(is_below(located(paths, self.stored_base), top))

    def containers(self) -> pa.Table:
        """Archives, tables, documents and videos that were read to their end, as `CONTAINER_SCHEMA` says.

        A file that is damaged or missing counts as empty: the containers are then listed again.
        """
        try:
            path = self.folder / CONTAINERS
            return pq.read_table(path, page_checksum_verification=True).cast(CONTAINER_SCHEMA)
        except (OSError, ValueError, pa.ArrowException):
            return CONTAINER_SCHEMA.empty_table()

    def failures(self) -> list[dict[str, Any]]:
        """Rows of ``failures.parquet``.

        Raises:
            DamagedError: the file is damaged.
        """
        path = self.folder / FAILURES
        if not path.exists():
            return []
        try:
            return read_failures(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise unreadable(path, error) from error


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
            hint=f"Use --model {made.name}, or name a second index with --index."
            if made.name != model.name
            else "That model has changed since: delete the index and make it again, or name a second one with --index.",
        )


def check_same_model(snapshots: Sequence[Snapshot]) -> None:
    """Refuse indices whose vectors cannot be compared.

    Raises:
        StoreError: no index at all, one that is there twice, or two that different models made.
    """
    if not snapshots:
        raise StoreError("No index is named.")
    first = snapshots[0]
    named = {first.folder.resolve()}
    for other in snapshots[1:]:
        if (folder := other.folder.resolve()) in named:
            raise StoreError(f"The index {other.folder} is named twice.")
        named.add(folder)
        made, by = first.manifest.model, other.manifest.model
        if made.fingerprint != by.fingerprint:
            raise StoreError(
                f"{first.folder} was made by {made.name} ({made.fingerprint}), but {other.folder} by {by.name}"
                f" ({by.fingerprint}); their vectors cannot be compared.",
                hint="Index one of them again with the other's model.",
            )


def _read_tombstones(folder: Path, manifest: Manifest) -> Tombstones:
    name = manifest.tombstones
    return Tombstones() if name is None else Tombstones.read(folder / name, manifest.tombstones_sha256)
