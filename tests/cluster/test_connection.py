"""Clusters that cannot be used: each is a sentence."""

import importlib.metadata
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.cluster.connection import Node, connected
from llm2clip_search.cluster.items import texts_on_ray
from llm2clip_search.cluster.pool import ClusterConfig, pool_of
from llm2clip_search.cluster.work import EncoderSource
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import ClusterError, ModelError
from tests.support.commands import RunCli, is_one_error
from tests.support.encoders import ColourEncoder


def node(cpus: float = 4, gpus: float = 0) -> Node:
    return Node(id="1", name="n", cpus=cpus, gpus=gpus, memory=1 << 30, object_store=1 << 30)


def embed(source: EncoderSource, address: str, **options: object) -> np.ndarray:
    [found] = texts_on_ray([["a dog"]], source, ClusterConfig(address=address, **options), owner="test")  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"^There is no Ray cluster at 127\.0\.0\.1:1: connection refused\.$"),
        ("ray://head:10001", r"^ray://head:10001 is an address of Ray's client"),
        ("head", r"^'head' is not the address of a cluster, HOST:PORT\.$"),
        ("127.0.0.1:70000", r"^There is no Ray cluster at 127\.0\.0\.1:70000: "),
    ],
)
def test_an_address_without_a_cluster(address: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message), connected(address):
        pytest.fail("connected")


def test_no_cluster_on_this_machine_and_the_command_line(run_cli: RunCli, photographs: Path) -> None:
    done = run_cli("index", photographs, "--on", "ray:127.0.0.1:1")
    assert done.returncode == 1
    assert is_one_error(done.stderr)
    assert "There is no Ray cluster at 127.0.0.1:1" in done.stderr
    assert "ray start --head" in done.stderr
    for words in (("--staging", "x"), ("--dry-run",), ("--on", "spark")):
        assert run_cli("index", photographs, *words).returncode == 2


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match="needs the package ray") as raised, connected(""):
        pytest.fail("connected")
    assert "pip install 'llm2clip-search[ray]'" in raised.value.hint


def test_what_answers_and_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        message = rf"^What answers at 127\.0\.0\.1:{port} is not Ray's head, or refuses the token of this process\.$"
        with pytest.raises(ClusterError, match=message), connected(f"127.0.0.1:{port}"):
            pytest.fail("connected")


def test_a_cluster_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is Ray's own, of a cluster that says it is older."""
    ray = pytest.importorskip("ray")
    from ray._private.utils import check_version_info

    def refuse(**_: object) -> None:
        check_version_info({"ray_version": "1.9.0", "python_version": "3.9.1"}, "this process")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError) as raised, connected(""):
        pytest.fail("connected")
    own = ".".join(map(str, sys.version_info[:3]))
    assert str(raised.value) == (
        f"The cluster on this machine runs Ray 1.9.0 and Python 3.9.1, and this process Ray {ray.__version__} and"
        f" Python {own}."
    )


def test_more_gpus_than_there_are() -> None:
    nodes = [node(gpus=2), node()]
    assert pool_of(nodes, ClusterConfig()).encoders == 2
    assert pool_of(nodes, ClusterConfig(gpus_per_encoder=0.5)).encoders == 4
    assert pool_of([node(), node()], ClusterConfig()).encoders == 2
    with pytest.raises(ClusterError, match=r"^3 encoders with 1 GPUs each do not fit: the cluster has 2 GPUs\.$"):
        pool_of(nodes, ClusterConfig(encoders=3))
    with pytest.raises(ClusterError, match="offer no processors"):
        pool_of([node(cpus=0)], ClusterConfig())
    assert pool_of([node(cpus=1)], ClusterConfig()).reader_cpus < 1, "a reader fits beside an encoder"


@pytest.mark.slow
def test_a_node_with_another_version_of_this_package(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.metadata.version("llm2clip-search")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    with pytest.raises(ClusterError, match=rf"^The node .* has version {there} of llm2clip-search, not 99\.0\.$"):
        embed(EncoderSource.of(ColourEncoder()), ray_address, staging="/tmp")


def test_a_node_without_the_model_or_with_another_one(tmp_path: Path, ray_address: str) -> None:
    source = EncoderSource.of(ColourEncoder())
    with pytest.raises(ClusterError, match=r"^On the node .*, the model colours:16 cannot be used: gone is not on"):
        embed(replace(source, load_anew=_gone), ray_address, staging=str(tmp_path))
    with pytest.raises(ClusterError, match=r"the model colours:16 cannot be used: .* has the fingerprint [0-9a-f]{16}"):
        embed(replace(source, load_anew=_another), ray_address, staging=str(tmp_path))
    assert not list(tmp_path.iterdir()) or not list(tmp_path.glob("*/*"))


@pytest.mark.slow
def test_a_staging_place_that_a_node_does_not_see(tmp_path: Path, ray_address: str) -> None:
    opened = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ClusterError, match=r"^On the node .*, the staging place /proc/self/fd/\d+ cannot be used"):
            embed(EncoderSource.of(ColourEncoder()), ray_address, staging=f"/proc/self/fd/{opened}")
    finally:
        os.close(opened)
    with pytest.raises(ClusterError, match=r"^The staging place /proc/nowhere cannot be written: "):
        embed(EncoderSource.of(ColourEncoder()), ray_address, staging="/proc/nowhere")


@pytest.mark.slow
def test_a_token_that_is_refused() -> None:
    """In processes of their own, because Ray reads how to authenticate when it is imported."""
    pytest.importorskip("ray")
    code = """
import os, subprocess, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
code = '''
from llm2clip_search.cluster.connection import connected
from llm2clip_search.errors import ClusterError
try:
    with connected("%s"):
        print("joined")
except ClusterError as error:
    print(error)
''' % cluster.address
for token in ("a", "b"):
    variables = {**os.environ, "RAY_AUTH_TOKEN": token * 32}
    print(subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True).stdout.strip())
cluster.shutdown()
"""
    variables = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    right, wrong = done.stdout.strip().splitlines()[-2:]
    assert right == "joined"
    assert wrong.endswith("refuses the token of this process.")


def _gone() -> Encoder:
    raise ModelError("gone is not on this machine.")


def _another() -> Encoder:
    return ColourEncoder(8)
