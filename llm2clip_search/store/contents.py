"""What the files of an index hold: whether it is what the manifest says, and whether they agree with each other.

A checksum says that a file is the one that was written. It does not say that what was written was right.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.base.progress import Progress
from llm2clip_search.errors import StoreError
from llm2clip_search.store.manifest import SHARDS, Manifest
from llm2clip_search.store.salvage import TwinShard
from llm2clip_search.store.schema import metadata_schema
from llm2clip_search.store.shard import METADATA, ROWS, VECTORS, Shard, completed
from llm2clip_search.store.snapshot import ANN
from llm2clip_search.store.tombstones import NOTHING, Tombstones
from llm2clip_search.vectorindex.faiss_index import load_index
from llm2clip_search.vectorindex.kinds import kind_of

LENGTH_TOLERANCE = 2e-3
"""Of vectors, whose length is 1 before they are rounded to float16, which moves it by at most 2**-11."""
BLOCK_ROWS = 16_384


@dataclass(frozen=True, kw_only=True)
class DamagedFile:
    """A file that is missing, differs from what was committed, or holds what cannot be right."""

    path: str
    """Relative to the index folder, posix."""
    reason: str
    """``missing``, or what is wrong with it."""
    images: int | None
    """Live rows of its shard; for tombstones, deleted rows that may come back; 0 if searches do not need it. None for
    the manifest, which alone counts images."""


def damaged_contents(
    folder: Path, manifest: Manifest, damaged: Collection[str], *, progress: Progress
) -> Iterator[DamagedFile]:
    """Files that hold what cannot be right, although they are as they were written.

    Ids are those of the shard's entry in the manifest, and no two live rows have one. Both files of metadata hold the
    same. Vectors are finite and of unit length. Tombstones are of rows that exist. The approximate index holds as many
    rows as the manifest says, each once, and all live ones of the shards that it covers.

    Args:
        damaged: paths of files that are known to be damaged, which are not read.
        progress: called with ``shards``.
    """
    tombstones = Tombstones()
    if manifest.tombstones is not None and manifest.tombstones not in damaged:
        tombstones = Tombstones.read(folder / manifest.tombstones, manifest.tombstones_sha256)
    shards = [
        Shard(folder / SHARDS / entry.name, entry, tombstones.of(entry.name), manifest.dim) for entry in manifest.shards
    ]
    schema, surplus = metadata_schema(manifest.columns), len(tombstones)
    live: dict[str, np.ndarray] = {}
    for done, shard in enumerate(shards):
        progress("shards", done, len(shards), {})
        intact = {name for name in shard.entry.sha256 if f"{SHARDS}/{shard.name}/{name}" not in damaged}
        images = len(shard.live_rows) if METADATA in intact else shard.entry.rows

        def found(name: str, reason: str, shard: Shard = shard, images: int = images) -> DamagedFile:
            return DamagedFile(path=f"{SHARDS}/{shard.name}/{name}", reason=reason, images=images)

        if VECTORS in intact and (reason := _reason(lambda shard=shard: _of_vectors(shard.vectors))):  # type: ignore[misc]
            yield found(VECTORS, reason)
        if METADATA not in intact:
            continue
        if reason := _reason(lambda shard=shard: _of_ids(shard, manifest.next_id)):  # type: ignore[misc]
            yield found(METADATA, reason)
            continue
        live[shard.name] = shard.live_ids
        surplus -= int(np.count_nonzero(np.isin(shard.dead, shard.ids)))
        if ROWS in intact and (reason := _reason(lambda shard=shard: _of_twin(shard, schema))):  # type: ignore[misc]
            yield found(ROWS, reason)
    progress("shards", len(shards), len(shards), {})
    yield from _shared(live)
    is_whole = not any(path.startswith(f"{SHARDS}/") for path in damaged)
    if manifest.tombstones is not None and manifest.tombstones not in damaged and is_whole and surplus:
        reason = f"names {surplus:,} rows that do not exist"
        yield DamagedFile(path=manifest.tombstones, reason=reason, images=manifest.dead)
    if manifest.ann is not None and (path := f"{ANN}/{manifest.ann.name}") not in damaged:
        ids = np.concatenate([NOTHING, *(live[name] for name in manifest.ann.shards if name in live)])
        if reason := _reason(lambda: _of_ann(folder / path, manifest, ids)):
            yield DamagedFile(path=path, reason=reason, images=0)


def _reason(check: Callable[[], str]) -> str:
    """What a check finds, or what keeps it from reading the file; empty if nothing is wrong."""
    try:
        return check()
    except (OSError, StoreError, pa.ArrowException) as error:
        return f"cannot be used: {error}"


def _of_vectors(vectors: np.ndarray) -> str:
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.asarray(vectors[start : start + BLOCK_ROWS], dtype=np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
        bad = np.flatnonzero(~(np.abs(lengths - 1) < LENGTH_TOLERANCE))  # true for nan as well
        if len(bad):
            return f"row {start + bad[0]} has length {lengths[bad[0]]:.4g}, not 1"
    return ""


def _of_ids(shard: Shard, next_id: int) -> str:
    """What is wrong with the ids of a shard."""
    ids, entry = shard.ids, shard.entry
    ordered = np.sort(ids)
    if len(twice := ordered[:-1][ordered[1:] == ordered[:-1]]):
        return f"has id {twice[0]} twice"
    if (ordered[0], ordered[-1]) != (entry.first_id, entry.last_id):
        return f"has ids {ordered[0]} to {ordered[-1]}, but the manifest says {entry.first_id} to {entry.last_id}"
    if ordered[-1] >= next_id:
        return f"has id {ordered[-1]}, but the next one is {next_id}"
    return ""


def _shared(live: Mapping[str, np.ndarray]) -> Iterator[DamagedFile]:
    """Shards with a live id that an earlier one has as well.

    Args:
        live: live ids by the name of their shard.
    """
    if not live:
        return
    ids = np.concatenate([*live.values()])
    order = np.argsort(ids, kind="stable")
    places = np.sort(order[1:][ids[order[1:]] == ids[order[:-1]]])
    numbers = np.searchsorted(np.cumsum([len(each) for each in live.values()]), places, side="right")
    names = [*live]
    for number in np.unique(numbers):
        reason = f"has id {ids[places[numbers == number][0]]}, which another shard has as well"
        yield DamagedFile(path=f"{SHARDS}/{names[number]}/{METADATA}", reason=reason, images=len(live[names[number]]))


def _of_twin(shard: Shard, schema: pa.Schema) -> str:
    """Whether both files of metadata hold the same."""
    twin = TwinShard(shard.folder, shard.entry, shard.dead, 0)
    columns = sorted(shard.columns)
    if columns != sorted(twin.columns):
        return f"has other columns than {METADATA}"
    # Parquet stores seconds as milliseconds.
    same = completed(twin.read(columns), schema).equals(completed(shard.read(columns), schema))
    return "" if same else f"holds other rows than {METADATA}"


def _of_ann(path: Path, manifest: Manifest, live: np.ndarray) -> str:
    """Whether an approximate index holds what it covers.

    Args:
        live: ids of the live rows of the shards that it covers.
    """
    ann = manifest.ann
    assert ann is not None, "the manifest names it"
    ids = load_index(kind_of(ann.factory), path, rows=ann.rows, dim=manifest.dim).ids()
    if len(np.unique(ids)) != ann.rows:
        return f"holds {len(np.unique(ids)):,} different ids, but the manifest says {ann.rows:,}"
    if len(missing := np.setdiff1d(live, ids)):
        return f"lacks {len(missing):,} rows, of which the first has id {missing[0]}"
    return ""
