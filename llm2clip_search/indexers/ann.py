"""The approximate index: which kind for how many vectors, built after a commit, kept in step.

On disk it is always a CPU index whose vectors carry our ids; a GPU copy is made when it is opened.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llm2clip_search.base.vectors import unit
from llm2clip_search.store import AnnEntry, Snapshot, Writer
from llm2clip_search.vectorindex.search import exact_search, import_faiss, read_ann, search_parameters

AnnKind = Literal["auto", "flat", "hnsw", "ivf"]


@dataclass(frozen=True, kw_only=True)
class AnnConfig:
    """When search becomes approximate, and how.

    Exact search over 120,000 vectors of 512 dimensions took 0.15 s on two cores, less than loading an
    HNSW graph of them; a graph costs memory on top of the vectors, so that beyond a million lists win.
    """

    kind: AnnKind = "auto"
    exact_below: int = 100_000
    """Live rows under which ``auto`` builds nothing."""
    hnsw_below: int = 1_000_000
    """Live rows under which ``auto`` builds HNSW, and IVF from there on."""
    rebuild_growth: float = 2.0
    """Built anew when live rows have grown by this factor since, or when half its vectors are dead."""
    seed: int = 0

    def factory(self, rows: int) -> str | None:
        """FAISS factory string for so many vectors; None is exact search."""
        kind = self.kind
        if kind == "auto":
            kind = "flat" if rows < self.exact_below else "hnsw" if rows < self.hnsw_below else "ivf"
        if kind == "flat" or rows == 0:
            return None
        if kind == "hnsw":
            return "IDMap2,HNSW32,Flat"
        # FAISS's guidance for IVF: 4 to 16 sqrt(n) lists, and at least 39 training vectors a list.
        lists = max(1, min(int(8 * math.sqrt(rows)), rows // 39))
        return f"IVF{lists},SQfp16"


def build_ann(writer: Writer, config: AnnConfig) -> AnnEntry | None:
    """Bring the approximate index in step with the last commit; returns what the manifest now names.

    New shards are added to what is there; dead vectors stay in it and are masked at query time, until
    growth or death makes it worth building anew. Its recall@10 is measured and kept beside it.
    """
    snapshot, current = writer.snapshot, writer.manifest.ann
    live = writer.manifest.live
    factory = config.factory(live)
    names = tuple(entry.name for entry in writer.manifest.shards)
    if factory is None:
        if current is not None:
            writer.publish_ann(None)
        return None
    if current is not None and not (
        (snapshot.folder / "ann" / current.name).is_file() and _still_good(current, factory, live, names, config)
    ):
        current = None
    if current is not None and current.shards == names:
        return current
    faiss = import_faiss()
    if current is not None:
        index = read_ann(snapshot.folder / "ann" / current.name)
        covered, trained_on, factory = set(current.shards), current.trained_on, current.factory
    else:
        index = _train(snapshot, factory, config)
        covered, trained_on = set(), live
    present = _ids_in(snapshot, covered)
    for shard in snapshot.shards:
        if shard.name in covered:
            continue
        rows = shard.live_rows[~np.isin(shard.ids[shard.live_rows], present)]  # renamed rows keep id and vector
        if len(rows):
            index.add_with_ids(np.asarray(shard.vectors[rows], dtype=np.float32), shard.ids[rows])
    recall = measure_recall(snapshot, index, seed=config.seed)
    folder = snapshot.folder / "ann"
    folder.mkdir(exist_ok=True)
    name = f"{writer.manifest.generation + 1:08d}.faiss"
    temporary = folder / f".{name}.tmp"
    faiss.write_index(index, str(temporary))
    temporary.replace(folder / name)
    entry = AnnEntry(
        name=name,
        factory=factory,
        rows=index.ntotal,
        trained_on=trained_on,
        shards=names,
        recall_at_10=recall,
    )
    writer.publish_ann(entry)
    return entry


def _still_good(current: AnnEntry, factory: str, live: int, names: tuple[str, ...], config: AnnConfig) -> bool:
    same_kind = ("HNSW" in current.factory) == ("HNSW" in factory)
    grown = live > config.rebuild_growth * current.trained_on
    mostly_dead = current.rows > 2 * live
    return same_kind and not grown and not mostly_dead and set(current.shards) <= set(names)


def _ids_in(snapshot: Snapshot, covered: set[str]) -> np.ndarray:
    parts = [shard.ids for shard in snapshot.shards if shard.name in covered]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _train(snapshot: Snapshot, factory: str, config: AnnConfig) -> Any:
    faiss = import_faiss()
    index = faiss.index_factory(snapshot.manifest.dim, factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        lists = faiss.extract_index_ivf(index).nlist
        sample = np.sort(
            np.random.default_rng(config.seed).choice(
                snapshot.live_ids, size=min(len(snapshot.live_ids), 64 * lists), replace=False
            )
        )
        index.train(np.concatenate([vectors for _, vectors in snapshot.blocks(sample)]))
    return index


def measure_recall(snapshot: Snapshot, index: Any, *, seed: int, queries: int = 100, k: int = 10) -> float:
    """Share of the exact ten nearest neighbours that the approximate index finds, asked in `midpoint_queries`."""
    faiss = import_faiss()
    probe = midpoint_queries(snapshot, seed=seed, count=queries)
    k = min(k, len(snapshot.live_ids))
    _, expected = exact_search(snapshot, probe, k)
    selector = faiss.IDSelectorBatch(snapshot.live_ids)
    _, found = index.search(probe, k, params=search_parameters(faiss, index, selector=selector))
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(expected, found, strict=True))
    return hits / (queries * k)


def midpoint_queries(snapshot: Snapshot, *, seed: int, count: int) -> np.ndarray:
    """Midpoints of random pairs of an index's own vectors: near the data, but not in it.

    Returns:
        float32 ``[count, dim]``, unit.
    """
    pairs = np.random.default_rng(seed).choice(snapshot.live_ids, size=(count, 2))
    stored = snapshot.vectors(np.unique(pairs).tolist())
    place = {identifier: row for row, identifier in enumerate(np.unique(pairs).tolist())}
    middle = np.stack([stored[place[a]] + stored[place[b]] for a, b in pairs.tolist()])
    return unit(middle)
