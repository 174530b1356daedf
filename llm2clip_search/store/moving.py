"""Folders that have moved: their paths in the metadata are rewritten, no image is read, ids and vectors stay."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.store.lost import move_lost_images
from llm2clip_search.store.manifest import SourceEntry
from llm2clip_search.store.paths import PathChange, as_mask
from llm2clip_search.store.schema import Failure
from llm2clip_search.store.shard import Shard
from llm2clip_search.store.writer import Writer


def move_paths(writer: Writer, change: PathChange, *, base: str | None = None) -> int:
    """Rewrite the paths of rows, sources, failures, and images that a repair has found lost.

    Only shards with a path that changes are written again, all of them in one commit. A row whose new path another row
    has already is dropped: the image was indexed at its new place.

    Args:
        base: as for `Writer.set_sources`, if it changes too.

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
    # Before the commit: a change that is made twice is the same as one that is made once, so a kill does no harm.
    move_lost_images(writer.snapshot.folder, change.of_table)
    first = writer.manifest.next_shard
    names = (f"{number:06d}" for number in range(first, first + len(affected)))
    groups = {name: [shard] for name, shard in zip(names, affected, strict=True)}
    writer.replace_shards(groups, change=change.of_table, sources=_moved(writer.manifest.sources, change), base=base)
    failures = writer.snapshot.failures()
    changed_failures = [_moved_failure(Failure(**row), change) for row in failures]
    if any(row["path"] != failure.path for row, failure in zip(failures, changed_failures, strict=True)):
        writer.replace_failures(changed_failures)
    if len(containers := writer.snapshot.containers()):
        paths = change.of_all(containers.column("path"))
        writer.record_containers(containers.set_column(0, containers.schema.field("path"), paths))
    return moved


def _moved_failure(failure: Failure, change: PathChange) -> Failure:
    corpus = change.of(failure.corpus) if failure.corpus else None
    return replace(failure, path=change.of(failure.path), corpus=corpus)


def _moved(sources: Sequence[SourceEntry], change: PathChange) -> list[SourceEntry]:
    """Sources at their new places; one that lies there already keeps its own options."""
    names = pa.chunked_array([[source.uri for source in sources]], pa.string())
    before, after = (places.to_pylist() for places in change.places(names))
    staying = {new for old, new in zip(before, after, strict=True) if old == new}
    changed = [
        replace(source, uri=change.of(source.uri), mounts=tuple(map(change.of, source.mounts)))
        for source, old, new in zip(sources, before, after, strict=True)
        if old == new or new not in staying
    ]
    return [*{(source.uri, source.modality): source for source in changed}.values()]


def _taken(writer: Writer, change: PathChange) -> np.ndarray:
    """Ids of rows that move to where another row is, int64."""
    ids, places, moves = [], [], []
    for shard, paths in writer.snapshot.live_paths():
        before, after = change.places(paths)
        ids.append(shard.live_ids)
        places.append(np.fromiter(map(hash, after.to_pylist()), dtype=np.int64, count=len(after)))
        moves.append(as_mask(pc.not_equal(before, after)))
    if not ids:
        return np.empty(0, dtype=np.int64)
    where, is_moving = np.concatenate(places), np.concatenate(moves)
    taken: np.ndarray = np.concatenate(ids)[is_moving & np.isin(where, where[~is_moving])]
    return taken
