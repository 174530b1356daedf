"""Folders that have moved: their paths in the metadata are rewritten, no image is read, ids and vectors stay."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.store.paths import PathChange, as_mask
from llm2clip_search.store.schema import Failure
from llm2clip_search.store.shard import Shard
from llm2clip_search.store.writer import Writer


def move_paths(writer: Writer, change: PathChange) -> int:
    """Rewrite the paths of rows, sources and failures.

    Only shards with a path that changes are written again, all of them in one commit. A row whose new path another row
    has already is dropped: the image was indexed at its new place.

    Returns:
        Rows that have another path now.
    """
    twice = _taken(writer, change)
    if len(twice):
        writer.commit(removed=twice)
    moved, affected = 0, list[Shard]()
    for shard, paths in writer.snapshot.live_paths():
        count = int(np.count_nonzero(as_mask(pc.not_equal(paths, change.of_all(paths)))))
        moved += count
        affected += [shard] if count else []
    sources = {}
    for source in writer.manifest.sources:
        changed = replace(source, uri=change.of(source.uri))
        if changed == source or changed.uri not in sources:  # one that lies there already keeps its own options
            sources[changed.uri] = changed
    first = writer.manifest.next_shard
    names = (f"{number:06d}" for number in range(first, first + len(affected)))
    groups = {name: [shard] for name, shard in zip(names, affected, strict=True)}
    writer.replace_shards(groups, change=change.of_table, sources=[*sources.values()])
    failures = writer.snapshot.failures()
    changed_failures = [Failure(**{**row, "path": change.of(row["path"])}) for row in failures]
    if any(row["path"] != failure.path for row, failure in zip(failures, changed_failures, strict=True)):
        writer.replace_failures(changed_failures)
    return moved


def _taken(writer: Writer, change: PathChange) -> np.ndarray:
    """Ids of rows whose new path another row has, int64."""
    ids, before, after = [], [], []
    for shard, paths in writer.snapshot.live_paths():
        ids.append(shard.live_ids)
        before.append(_hashes(paths))
        after.append(_hashes(change.of_all(paths)))
    if not ids:
        return np.empty(0, dtype=np.int64)
    moves = np.concatenate(before) != np.concatenate(after)
    staying = np.concatenate(before)[~moves]
    taken = moves & np.isin(np.concatenate(after), staying)
    found: np.ndarray = np.concatenate(ids)[taken]
    return found


def _hashes(paths: pa.ChunkedArray) -> np.ndarray:
    return np.fromiter(map(hash, paths.to_pylist()), dtype=np.int64, count=len(paths))
