"""Thirty runs with one fault each: every image has one row, nothing is lost, and no file is left in the staging."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3

from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.corpora import Corpus, FolderCorpus
from llm2clip_search.corpora.registry import open_corpus
from llm2clip_search.errors import ClusterError
from llm2clip_search.indexers import IndexConfig, IndexSummary, index_corpus
from llm2clip_search.indexers.on_ray import RayEmbedding
from llm2clip_search.store import Snapshot
from tests.support.clusters import OBJECT_STORE, two_nodes
from tests.support.corpus import jpeg, write_tar
from tests.support.encoders import ColourEncoder
from tests.support.faults_of_nodes import DyingCorpus, DyingEncoder
from tests.support.images import png
from tests.support.s3 import KEYS, fill_bucket, s3_server

pytestmark = pytest.mark.slow
IMAGES = 300
DRIVER = """
import sys
from pathlib import Path
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.corpora import FolderCorpus
from llm2clip_search.indexers import IndexConfig, index_corpus
from llm2clip_search.indexers.on_ray import RayEmbedding
from tests.support.encoders import ColourEncoder

def report(task, done, total, figures):
    print(done, flush=True)

index_corpus(
    FolderCorpus(sys.argv[1]), encoder=ColourEncoder(), index=sys.argv[2], progress=report,
    config=IndexConfig(batch_size=4, rows_per_commit=16), embedding=RayEmbedding(ClusterConfig(address=sys.argv[3])),
)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes(nodes=3) as made:
        yield made


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that no two runs change."""
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"{number:04d}.png").write_bytes(png(number))
    return folder


def index(
    corpus: Corpus, place: Path, address: str, encoder: ColourEncoder | None = None, **options: Any
) -> IndexSummary:
    return index_corpus(
        corpus,
        encoder=encoder or ColourEncoder(),
        index=place,
        config=IndexConfig(batch_size=4, rows_per_commit=64),
        embedding=RayEmbedding(ClusterConfig(address=address, **options)),
    )


def assert_whole(place: Path, count: int = IMAGES) -> None:
    """Every image has one live row, whose vector is its own, and the staging place is empty."""
    snapshot = Snapshot(place)
    rows = snapshot.metadata().to_pylist()
    assert len(rows) == len({row["path"] for row in rows}) == snapshot.manifest.live == count
    encoder = ColourEncoder()
    files = [snapshot.located(row["path"]) for row in rows]
    if not any("#" in file for file in files):
        found = np.asarray(snapshot.vectors([row["id"] for row in rows]))
        np.testing.assert_allclose(found, encoder.encode_images(files), atol=1e-3)
    assert not list(place.glob(".cluster/*"))


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_encoder(many: Path, tmp_path: Path, cluster: Any, seed: int) -> None:
    summary = index(FolderCorpus(many), tmp_path / "index", cluster.address, DyingEncoder(tmp_path, times=1 + seed % 3))
    assert (summary.indexed, summary.failed) == (IMAGES, 0)
    assert_whole(tmp_path / "index")


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_reader(many: Path, tmp_path: Path, cluster: Any, seed: int) -> None:
    corpus = DyingCorpus(many, name=f"{seed * 47:04d}.png", markers=tmp_path, times=1 + seed % 3)
    assert index(corpus, tmp_path / "index", cluster.address).indexed == IMAGES
    assert (tmp_path / "died-0").exists()
    assert_whole(tmp_path / "index")


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_node(many: Path, tmp_path: Path, cluster: Any, seed: int) -> None:
    """The node is gone in the middle of the run; another one comes for the next test."""
    killed: list[Any] = []

    def kill(task: str, done: int, total: int, figures: Any) -> None:
        if task == "images" and done >= 40 * seed and not killed:
            killed.append(cluster.worker_nodes.copy().pop())
            cluster.remove_node(killed[0], allow_graceful=False)

    try:
        index_corpus(
            FolderCorpus(many),
            encoder=ColourEncoder(),
            index=tmp_path / "index",
            config=IndexConfig(batch_size=4, rows_per_commit=64),
            embedding=RayEmbedding(ClusterConfig(address=cluster.address, stall_s=60.0)),
            progress=kill,
        )
        assert killed
        assert_whole(tmp_path / "index")
    finally:
        cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_driver_and_the_next_run(many: Path, tmp_path: Path, cluster: Any, seed: int) -> None:
    place = tmp_path / "index"
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(many), str(place), cluster.address], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if int(line) >= 1 + 70 * seed:
                break
        driver.send_signal(signal.SIGKILL)
    before = Snapshot(place).manifest.live
    assert before <= 1 + 70 * seed
    time.sleep(2)
    summary = index(FolderCorpus(many), place, cluster.address)
    assert (summary.unchanged, summary.indexed) == (before, IMAGES - before)
    assert_whole(place)


@pytest.mark.parametrize("seed", range(3))
def test_a_full_disk(many: Path, tmp_path: Path, cluster: Any, seed: int) -> None:
    """A staging place without room ends the run with a sentence; with room, the next run is whole."""
    if os.geteuid() or subprocess.run(["mount", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    small = tmp_path / "small"
    small.mkdir()
    size = f"size={(60, 120, 200)[seed]}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(ClusterError, match=r"^The staging place .* cannot be written: no space left on device\.$"):
            index(FolderCorpus(many), tmp_path / "index", cluster.address, staging=str(small))
        assert not list(small.iterdir()) or not list(small.glob("*/*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    index(FolderCorpus(many), tmp_path / "index", cluster.address)
    assert_whole(tmp_path / "index")


@pytest.mark.parametrize("seed", range(3))
def test_an_unreadable_shard(tmp_path: Path, cluster: Any, seed: int) -> None:
    folder = tmp_path / "shards"
    for shard in range(3):
        members = {f"{shard}-{number:03d}.jpg": jpeg(100 * shard + number) for number in range(20)}
        write_tar(folder / f"{shard}.tar", members)
    with (folder / f"{seed}.tar").open("r+b") as file:
        file.truncate(5000 * (seed + 1))
    summary = index(open_corpus(folder), tmp_path / "index", cluster.address)
    assert summary.failed >= 1
    assert any(failure["path"].endswith(f"{seed}.tar") for failure in summary.failures)
    assert 40 <= summary.total < 60
    assert_whole(tmp_path / "index", summary.total)


@pytest.mark.parametrize("seed", range(3))
def test_errors_of_s3(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """One request in a few fails, of those that store and read what nodes hand over."""
    with s3_server() as endpoint, _failing(endpoint, every=(3, 5, 7)[seed]) as (address, failed):
        bucket = f"staging-{seed}"
        fill_bucket(endpoint, bucket, {})
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        with two_nodes() as own:  # its nodes have these variables
            index(FolderCorpus(many), tmp_path / "index", own.address, staging=f"s3://{bucket}/runs")
        assert failed[0] > 3
        listed = urllib3.PoolManager().request("GET", f"{endpoint}/{bucket}?list-type=2").data
        assert b"<Key>" not in listed
    assert_whole(tmp_path / "index")


class _failing:  # noqa: N801 - a context manager
    """A proxy before an S3 server of which every few requests fail, and the count of failures."""

    def __init__(self, endpoint: str, *, every: int) -> None:
        self.failed, count, pool = [0], [0], urllib3.PoolManager()
        lock, failed = threading.Lock(), self.failed

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                return

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    count[0] += 1
                    is_failing = count[0] % every == 0
                    failed[0] += is_failing
                if is_failing:
                    status, headers, answer = 503, {}, b"<Error><Code>SlowDown</Code></Error>"
                else:
                    passed = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                    got = pool.request(self.command, endpoint + self.path, body=body, headers=passed)
                    status, headers, answer = got.status, dict(got.headers), got.data
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(answer))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

        for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
            setattr(Handler, f"do_{method}", Handler.forward)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> tuple[str, list[int]]:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}", self.failed

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
