"""What a cluster costs: the same source indexed in this process and on Ray nodes of this machine, in turn."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.corpora.registry import open_corpus
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import ClusterError
from llm2clip_search.indexers import Embedding, IndexConfig, LocalEmbedding, index_corpus
from llm2clip_search.indexers.on_ray import RayEmbedding
from llm2clip_search.store import Snapshot

_VARIABLES = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@dataclass(frozen=True, kw_only=True)
class ClusterCost:
    """One pair of runs."""

    images: int
    nodes: int
    local_s: float
    cluster_s: float
    """Wall-clock seconds of each; the cluster was up before."""
    driver_s: float
    """Processor seconds that this process took as the driver: it plans, reads results and commits.
    ``images / driver_s`` is what a driver can take from a cluster of any size."""
    equal_rows: bool
    """Both indices have the same rows, ids included."""
    equal_bits: bool
    """And the same vectors, bit for bit."""

    @property
    def overhead(self) -> float:
        """Of the cluster, as a fraction of the local run."""
        return self.cluster_s / self.local_s - 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with the overhead."""
        return {**asdict(self), "overhead": self.overhead}


def benchmark_cluster(
    source: str | os.PathLike[str],
    encoder: Encoder,
    *,
    nodes: int = 2,
    runs: int = 1,
    config: IndexConfig = IndexConfig(),
    progress: Progress = no_progress,
) -> Iterator[ClusterCost]:
    """Index a source in this process and on Ray nodes that share this machine's cores, in turn.

    Args:
        nodes: Ray nodes on loopback, which get the cores in equal parts.
        runs: pairs of runs, each of which begins without an index.

    Raises:
        ClusterError: Ray is not installed.
        CorpusError: the source cannot be read.
    """
    next(open_corpus(source).items(), None)  # it is read before a cluster is started for it
    with loopback(nodes) as address:
        for run in range(runs):
            with tempfile.TemporaryDirectory() as scratch:
                places = {name: Path(scratch) / name for name in ("local", "cluster")}
                on_ray = RayEmbedding(ClusterConfig(address=address))
                spent = {
                    name: _seconds(source, encoder, places[name], config, embedding, progress)
                    for name, embedding in {"local": LocalEmbedding(), "cluster": on_ray}.items()
                }
                local, other = (Snapshot(place) for place in places.values())
                rows = local.metadata().to_pylist()
                ids = [row["id"] for row in rows]
                equal_rows = rows == other.metadata().to_pylist()
                yield ClusterCost(
                    images=len(rows),
                    nodes=nodes,
                    local_s=spent["local"][0],
                    cluster_s=spent["cluster"][0],
                    driver_s=spent["cluster"][1],
                    equal_rows=equal_rows,
                    equal_bits=equal_rows
                    and np.asarray(local.vectors(ids)).tobytes() == np.asarray(other.vectors(ids)).tobytes(),
                )
            progress("runs", run + 1, runs, {})


@contextmanager
def loopback(nodes: int) -> Iterator[str]:
    """The address of a Ray cluster whose nodes are all on this machine.

    Raises:
        ClusterError: Ray is not installed.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        from ray.cluster_utils import Cluster
    except ImportError as error:
        raise ClusterError(
            "Measuring a cluster needs the package ray, which is not installed.",
            hint="Install it: pip install 'llm2clip-search[ray]'.",
        ) from error
    own: dict[str, Any] = {"num_cpus": max(1, (os.cpu_count() or 1) // nodes), "object_store_memory": 256 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**own, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**own)
        yield str(cluster.address)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _seconds(
    source: str | os.PathLike[str],
    encoder: Encoder,
    index: Path,
    config: IndexConfig,
    embedding: Embedding,
    progress: Progress,
) -> tuple[float, float]:
    """Wall-clock and processor seconds of an index run in this process."""
    started, worked = time.perf_counter(), time.process_time()
    index_corpus(
        open_corpus(source), encoder=encoder, index=index, config=config, embedding=embedding, progress=progress
    )
    return time.perf_counter() - started, time.process_time() - worked
