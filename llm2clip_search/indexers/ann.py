"""Building the approximate index of a store, and keeping it in step with commits."""

import numpy as np

from llm2clip_search.store import AnnEntry, Snapshot, Writer
from llm2clip_search.vectorindex.faiss_index import FaissIndex
from llm2clip_search.vectorindex.kinds import IndexKind, kind_of
from llm2clip_search.vectorindex.policy import AnnConfig
from llm2clip_search.vectorindex.recall import measure_recall


def build_ann(writer: Writer, config: AnnConfig) -> AnnEntry | None:
    """Bring the approximate index in step with the last commit; returns what the manifest now names.

    Vectors of new shards are added to the index that is there. Dead vectors stay in it and are masked at query time,
    until growth or deletions make it worth building again. Its recall@10 is measured and stored with it.
    """
    current, live = writer.manifest.ann, writer.manifest.live
    kind = config.kind_for(live)
    names = tuple(entry.name for entry in writer.manifest.shards)
    if kind is None:
        if current is not None:
            writer.drop_ann()
        return None
    if current is not None and not _is_kept(writer, current, config):
        current = None
    if current is not None and current.shards == names:
        return current
    snapshot = writer.snapshot
    if current is not None:
        assert snapshot.ann_path is not None, "the manifest names it"
        index = FaissIndex.load(kind_of(current.factory), snapshot.ann_path)
        covered, trained_on = set(current.shards), current.trained_on
    else:
        index = _create(snapshot, kind, seed=config.seed)
        covered, trained_on = set(), live
    present = _ids_in(snapshot, covered)
    for shard in snapshot.shards:
        if shard.name in covered:
            continue
        rows = shard.live_rows[~np.isin(shard.ids[shard.live_rows], present)]  # renamed rows keep id and vector
        if len(rows):
            index.add(shard.ids[rows], np.asarray(shard.vectors[rows], dtype=np.float32))
    return writer.publish_ann(
        index.save,
        factory=index.kind.factory,
        rows=len(index),
        trained_on=trained_on,
        shards=names,
        recall_at_10=measure_recall(snapshot, index, seed=config.seed),
    )


def _is_kept(writer: Writer, current: AnnEntry, config: AnnConfig) -> bool:
    """True if the present index is there, covers shards that still exist, and is worth adding to."""
    path = writer.snapshot.ann_path
    shards = {entry.name for entry in writer.manifest.shards}
    return (
        path is not None
        and path.is_file()
        and set(current.shards) <= shards
        and config.keeps(
            kind_of(current.factory), rows=writer.manifest.live, vectors=current.rows, trained_on=current.trained_on
        )
    )


def _ids_in(snapshot: Snapshot, shards: set[str]) -> np.ndarray:
    parts = [shard.ids for shard in snapshot.shards if shard.name in shards]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _create(snapshot: Snapshot, kind: IndexKind, *, seed: int) -> FaissIndex:
    """An empty index of a kind, trained on a sample of the stored vectors if it needs that."""
    index = FaissIndex.create(kind, dim=snapshot.manifest.dim)
    if wanted := index.needs_training:
        ids = snapshot.live_ids
        sample = np.sort(np.random.default_rng(seed).choice(ids, size=min(len(ids), wanted), replace=False))
        index.train(np.concatenate([vectors for _, vectors in snapshot.blocks(sample)]))
    return index
