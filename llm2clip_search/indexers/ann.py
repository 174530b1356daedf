"""Building the approximate index of a store, and keeping it in step with commits."""

import logging
from collections.abc import Callable

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.errors import DamagedError
from llm2clip_search.store import AnnEntry, Snapshot, Writer
from llm2clip_search.vectorindex.faiss_index import FaissIndex, create_index, load_index
from llm2clip_search.vectorindex.gpu import build_cagra
from llm2clip_search.vectorindex.inverted_lists import InvertedListsIndex
from llm2clip_search.vectorindex.kinds import Cagra, IndexKind, kind_of
from llm2clip_search.vectorindex.policy import AnnConfig
from llm2clip_search.vectorindex.tuning import QUERIES, midpoint_queries, tune

logger = logging.getLogger(__name__)

TRAINING_BYTES = 2**30
"""Most memory that training vectors take: half a million of 512 dimensions, however many lists there are."""
ADDED_ROWS = 65_536
"""Vectors that are added at a time."""


def no_captions(_count: int) -> np.ndarray | None:
    """For a model that is not at hand: it brings no captions along."""
    return None


def build_ann(
    writer: Writer,
    config: AnnConfig,
    *,
    captions: Callable[[int], np.ndarray | None] = no_captions,
    progress: Progress = no_progress,
) -> AnnEntry | None:
    """Bring the approximate index in step with the last commit; returns what the manifest now names.

    New rows are searched exactly until there are more than ``config.tail_rows`` of them; then they are added to the
    index that is there. Dead vectors stay in it and are masked at query time, until growth or deletions make it worth
    building again. Recall and time are measured at many efforts and stored with it. Readers are not disturbed.

    Args:
        captions: `Encoder.caption_sample` of the model that made the index: recall is measured with captions that it
            brings along. Without any, midpoints of stored vectors stand in for them.
        progress: called with ``vectors`` as they are added and with ``efforts`` as they are measured.

    Raises:
        StoreError: no index of the wanted kind fits in memory or can be built here; rows that were committed stay.
    """
    snapshot, current, live = writer.snapshot, writer.manifest.ann, writer.manifest.live
    kind = config.kind_for(live, writer.manifest.dim)
    if kind is None:
        writer.set_ann(None, config)
        return None
    if current is not None and not _is_kept(snapshot, current, config):
        current = None
    if current is not None and len(snapshot.only(snapshot.names - set(current.shards))) <= config.tail_rows:
        writer.set_ann(current, config)
        return current
    if current is not None and not isinstance(kind, Cagra):  # a graph that cuVS has built takes no more vectors
        assert snapshot.ann_path is not None, "the manifest names it"
        size = {"rows": current.rows, "dim": writer.manifest.dim}
        index = load_index(kind_of(current.factory), snapshot.ann_path, **size, writable=True)
        _extend(index, snapshot, covered=frozenset(current.shards), progress=progress)
    else:
        current, index = None, _built(snapshot, kind, seed=config.seed, progress=progress)
    sample = captions(QUERIES)
    queries = midpoint_queries(snapshot, seed=config.seed) if sample is None else sample
    measured = tune(snapshot, index, queries, progress=progress)
    entry = AnnEntry(
        factory=index.kind.factory,
        rows=len(index),
        trained_on=live if current is None else current.trained_on,
        shards=tuple(shard.name for shard in snapshot.shards),
        queries="midpoints" if sample is None else "captions",
        exact_ms=measured.exact_ms,
        filtered_ms=measured.filtered_ms,
        points=measured.points,
    )
    return writer.publish_ann(index.save, entry, config)


def _is_kept(snapshot: Snapshot, current: AnnEntry, config: AnnConfig) -> bool:
    """True if the present index is intact, covers shards that still exist, and is worth adding to.

    Raises:
        StoreError: its file cannot be reached, so nobody knows.
    """
    manifest = snapshot.manifest
    if current.sha256 is None:  # written by an earlier version, which measured one effort only
        return False
    keeps = config.keeps(
        kind_of(current.factory),
        rows=manifest.live,
        dim=manifest.dim,
        vectors=current.rows,
        trained_on=current.trained_on,
    )
    if not keeps or not set(current.shards) <= snapshot.names:
        return False
    try:
        snapshot.confirm_ann(again=True)
    except DamagedError:
        logger.warning("%s is missing or is not the index of these images; it is rebuilt", snapshot.ann_path)
        return False
    return True


def _built(snapshot: Snapshot, kind: IndexKind, *, seed: int, progress: Progress) -> FaissIndex:
    """An index of all live rows, trained on a sample of them if its kind needs that."""
    if isinstance(kind, Cagra):
        parts = list(snapshot.blocks())
        return build_cagra(kind, np.concatenate([ids for ids, _ in parts]), np.concatenate([rows for _, rows in parts]))
    index = create_index(kind, dim=snapshot.manifest.dim)
    if isinstance(index, InvertedListsIndex):
        index.train(_sample(snapshot, index.training_size, seed=seed), seed=seed)
    _extend(index, snapshot, covered=frozenset(), progress=progress)
    return index


def _sample(snapshot: Snapshot, wanted: int, *, seed: int) -> np.ndarray:
    """Random live vectors in random order, float32: as many as wanted, as there are, or as memory is for."""
    generator, ids = np.random.default_rng(seed), snapshot.live_ids
    count = min(wanted, len(ids), TRAINING_BYTES // (4 * snapshot.manifest.dim))
    chosen = np.sort(generator.choice(ids, size=count, replace=False))
    return generator.permutation(np.concatenate([vectors for _, vectors in snapshot.blocks(chosen)]))


def _extend(index: FaissIndex, snapshot: Snapshot, *, covered: frozenset[str], progress: Progress) -> None:
    """Add the live rows of shards that an index does not cover, but for renamed ones, whose ids it has."""
    present = index.ids()
    new = snapshot.only(snapshot.names - covered)
    done, total = 0, len(new)
    for shard in new.shards:
        ids, rows = shard.by_id
        known = np.isin(ids, present, assume_unique=True)
        for start in range(0, len(ids), ADDED_ROWS):
            part = slice(start, start + ADDED_ROWS)
            fresh = ~known[part]
            if fresh.any():
                index.add(ids[part][fresh], np.asarray(shard.vectors[rows[part][fresh]], dtype=np.float32))
            done += len(fresh)
            progress("vectors", done, total, {})
