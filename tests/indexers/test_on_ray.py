"""Indices whose items are embedded on a Ray cluster of two nodes: equal to those that this process makes."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.corpora import SourceOptions
from llm2clip_search.errors import ClusterError
from llm2clip_search.indexers import IndexConfig, IndexSummary, LocalEmbedding, index_corpus, open_sources
from llm2clip_search.indexers.on_ray import RayEmbedding
from llm2clip_search.indexers.on_ray_dry_run import estimate_on_ray
from llm2clip_search.store import Snapshot
from tests.support.corpus import jpeg, write_tar
from tests.support.encoders import ColourEncoder
from tests.support.images import png
from tests.support.tables import write_parquet

COUNTS = ("indexed", "reused", "redescribed", "unchanged", "removed", "failed", "damaged", "total")


def index(
    folder: Path, sources: Sequence[str], address: str | None, *, name: str, encoder: ColourEncoder | None = None
) -> list[IndexSummary]:
    """Bring an index in a folder up to date, on a cluster if there is an address."""
    place, own = folder / name, encoder or ColourEncoder()
    known = Snapshot(place) if place.exists() else None
    corpora = open_sources(sources, known, SourceOptions(), given={})
    del known
    return [
        index_corpus(
            corpus,
            encoder=own,
            index=place,
            config=IndexConfig(batch_size=4, threads=2),
            embedding=LocalEmbedding() if address is None else RayEmbedding(ClusterConfig(address=address)),
        )
        for corpus in corpora
    ]


def assert_equal(folder: Path, summaries: Sequence[IndexSummary], expected: Sequence[IndexSummary]) -> None:
    """Two indices have the same rows, vectors, failures and containers, and were made by the same counts."""
    for one, other in zip(summaries, expected, strict=True):
        assert {name: getattr(one, name) for name in COUNTS} == {name: getattr(other, name) for name in COUNTS}
    ray, local = Snapshot(folder / "ray"), Snapshot(folder / "local")
    rows = ray.metadata().to_pylist()
    assert rows == local.metadata().to_pylist()
    ids = [row["id"] for row in rows]
    assert np.asarray(ray.vectors(ids)).tobytes() == np.asarray(local.vectors(ids)).tobytes()
    assert list(ray.failures()) == list(local.failures())
    assert ray.containers().sort_by("path").to_pylist() == local.containers().sort_by("path").to_pylist()


def write_sources(folder: Path) -> list[str]:
    """A folder, a tar and a table, with images that repeat, fail and are described."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(20):
        (images / f"{number:02d}.png").write_bytes(png(number))
    (images / "copy.png").write_bytes(png(3))
    (images / "broken.png").write_bytes(b"\x89PNG no picture")
    members = {f"{number:03d}.jpg": jpeg(100 + number) for number in range(10)}
    captions = {f"{number:03d}.txt": f"number {number}".encode() for number in range(10)}
    write_tar(folder / "shard.tar", dict(sorted({**members, **captions, "010.jpg": jpeg(105)}.items())))
    table = {"image": [jpeg(200 + number) for number in range(6)], "score": [0.5 * number for number in range(6)]}
    write_parquet(folder / "table.parquet", table)
    return ["images", "shard.tar", "table.parquet"]


@pytest.mark.slow
def test_an_index_and_its_next_runs_equal_those_of_one_process(
    tmp_path: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # sources are named relative to it, by `index`
    sources = write_sources(tmp_path)
    expected = index(tmp_path, sources, None, name="local")
    summaries = index(tmp_path, sources, ray_address, name="ray")
    assert_equal(tmp_path, summaries, expected)
    assert sum(node["embedded"] for summary in summaries for node in summary.nodes) >= sum(s.indexed for s in summaries)
    assert not (tmp_path / "ray" / ".cluster").exists()
    images = tmp_path / "images"
    (images / "00.png").rename(images / "moved.png")
    (images / "01.png").write_bytes(png(301))
    (images / "02.png").unlink()
    members = {f"{number:03d}.jpg": jpeg(100 + number) for number in range(1, 8)} | {"new.jpg": jpeg(400)}
    write_tar(tmp_path / "shard.tar", members)
    encoder = ColourEncoder()
    expected = index(tmp_path, sources[:2], None, name="local")
    summaries = index(tmp_path, sources[:2], ray_address, name="ray", encoder=encoder)
    assert_equal(tmp_path, summaries, expected)
    assert encoder.embedded == 0, "the driver embeds nothing"


def test_a_run_without_anything_to_embed_asks_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(1))
    index(tmp_path, ["images"], None, name="ray")
    [summary] = index(tmp_path, ["images"], "127.0.0.1:1", name="ray")
    assert (summary.unchanged, summary.total) == (1, 1)


@pytest.mark.slow
def test_a_dry_run_measures_and_commits_nothing(tmp_path: Path, ray_address: str) -> None:
    write_sources(tmp_path)
    [corpus] = open_sources([str(tmp_path / "images")], None, SourceOptions(), given={})
    found = estimate_on_ray(
        corpus,
        encoder=ColourEncoder(),
        index=tmp_path / "index",
        config=IndexConfig(batch_size=4),
        cluster=ClusterConfig(address=ray_address),
        node_price=3.0,
    )
    assert not (tmp_path / "index").exists()
    assert len(found.nodes) == 2
    assert (found.items, found.failed) == (22, 1)
    assert 0 < found.sample <= 21
    assert found.rate > 0
    assert found.encoder_bytes > 0
    assert found.seconds >= found.items / found.rate
    assert found.price == pytest.approx(found.node_hours * 3.0)


def test_a_folder_that_a_node_does_not_see_is_refused_before_work_starts(tmp_path: Path, ray_address: str) -> None:
    """The nodes run on this machine, so the source is named by a descriptor, which only this process has open."""
    write_sources(tmp_path)
    opened = os.open(tmp_path / "images", os.O_RDONLY)
    try:
        [corpus] = open_sources([f"/proc/self/fd/{opened}"], None, SourceOptions(), given={})
        with pytest.raises(ClusterError, match=r"On the node .*, the source cannot be read: (no such file|not a)"):
            index_corpus(
                corpus,
                encoder=ColourEncoder(),
                index=tmp_path / "index",
                embedding=RayEmbedding(ClusterConfig(address=ray_address)),
            )
    finally:
        os.close(opened)
