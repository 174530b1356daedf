"""Ray clusters on loopback."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

VARIABLES = {
    "RAY_worker_niceness": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
OBJECT_STORE = 200 << 20


@contextmanager
def two_nodes(nodes: int = 2) -> Iterator[Any]:
    """A cluster of nodes with one processor each; the test is skipped if Ray is not installed."""
    pytest.importorskip("ray", reason="needs the package ray, of the extra [ray]")
    os.environ.update(VARIABLES)
    from ray.cluster_utils import Cluster

    own: dict[str, Any] = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
    cluster: Any = Cluster(initialize_head=True, head_node_args={**own, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**own)
        yield cluster
    finally:
        cluster.shutdown()
