"""Recall, Pareto front and percentiles compared with independent references, and complete runs on small indices."""

import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llm2clip_search.base.checksums import CHECKED
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.benchmarks.perf import ann
from llm2clip_search.benchmarks.perf.ann import (
    AnnPoint,
    AnnResult,
    ExactNeighbours,
    benchmark_index,
    benchmark_synthetic,
    mark_front,
    recall_of,
)
from llm2clip_search.benchmarks.perf.ann_plot import write_ann
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.encoders import TowerEncoder
from llm2clip_search.errors import CorpusError, QueryError, StoreError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.vectorindex.exact import ExactIndex

MODEL = ModelIdentity(name="m", revision="r", weights_sha256="w", preprocess_sha256="p")
DIM = 16


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "ROUND_SECONDS", 0.0)


def store(folder: Path, vectors: np.ndarray, *, kind: str | None = None, removed: Sequence[int] = ()) -> Snapshot:
    """An index of these vectors with ids 0, 1, ...; the approximate index is built before rows are removed."""
    with Writer.open(folder, model=MODEL, dim=vectors.shape[1]) as writer:
        ids = writer.allocate(len(vectors))
        rows = [Row(id=i, path=f"{i}.jpg", content_hash=str(i), size=1, mtime_ns=0, width=1, height=1) for i in ids]
        writer.commit(rows, vectors)
        if kind is not None:
            build_ann(writer, AnnConfig(kind=kind))  # type: ignore[arg-type]
        if removed:
            writer.commit(removed=removed)
    return Snapshot(folder)


def drawn(rows: int, *, stream: int = 1) -> np.ndarray:
    return SphereMixture.of(rows, DIM).draw(rows, stream=stream)


def by_setting(result: AnnResult) -> dict[str, AnnPoint]:
    return {f"{point.kind} {point.setting}": point for point in result.points}


def test_every_kind_on_drawn_vectors(caplog: pytest.LogCaptureFixture) -> None:
    """Exact search, and inverted lists that are all probed, find everything."""
    with caplog.at_level(logging.INFO, logger="llm2clip_search"):
        result = benchmark_synthetic(600, dim=DIM, queries=40)
    lines = [record.getMessage() for record in caplog.records]
    points = by_setting(result)
    assert result.points[0].setting == "exact"
    assert {point.kind for point in result.points} == {"flat", "hnsw", "ivf", "ivfrabitq"}
    for kind, effort in (("hnsw", "efSearch"), ("ivf", "nprobe"), ("ivfrabitq", "nprobe")):
        *alone, engine = (point for point in result.points if point.kind == kind)
        assert engine.setting == "engine"
        assert all(re.fullmatch(rf"{effort}=\d+, \d+ candidates", point.setting) for point in alone)
        assert max(point.recall for point in alone) > 0.99
        assert engine.recall >= 0.95
    assert points["flat exact"].recall == 1.0
    assert points["flat exact"].memory_bytes == 600 * DIM * 2
    assert points["flat exact"].build_seconds is None
    for point in result.points:
        assert point.queries_per_second > 0
        assert 0 < point.p50_ms <= point.p95_ms <= point.p99_ms
        assert point.memory_bytes > 600 * DIM / 4
        assert point.kind == "flat" or (point.build_seconds or 0) > 0
    factories = {None, "IDMap2,HNSW32,SQfp16", "IVF15,SQfp16", "RR,IVF15,RaBitQ2"}
    assert {point.factory for point in result.points} == factories
    assert [line.split()[0] for line in lines] == ["writing", *["measuring", *["building", "measuring"] * 3]]
    again = by_setting(benchmark_synthetic(600, dim=DIM, queries=40))
    assert all(again[name].recall == point.recall for name, point in points.items() if name in again and "," in name)
    about = {"vectors": "synthetic, 24 clusters, seed 0", "rows": 600, "dim": DIM, "k": 10, "queries": 40}
    assert json.loads(json.dumps(list(result.to_dicts())))[0] == about | result.points[0].to_dict()


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_index_is_measured_as_it_is_and_only_read(tmp_path: Path, kind: str) -> None:
    """A third of the rows is deleted but still in the FAISS file; they are neither found nor counted as missed."""
    snapshot = store(tmp_path, drawn(900), kind=kind, removed=range(0, 900, 3))

    def times() -> dict[Path, int]:
        """Of all files but the list of those that have been compared with their checksums."""
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != CHECKED}

    before = times()
    result = benchmark_index(snapshot, k=5, queries=30)
    assert before == times()
    assert (result.rows, result.vectors) == (600, str(tmp_path))
    assert [point.setting for point in result.points][:: len(result.points) - 1] == ["exact", "engine"]
    assert {point.kind for point in result.points} == {"flat", kind}
    assert result.points[0].recall == 1.0
    assert result.points[-2].recall > 0.98  # at most effort
    assert result.points[-1].recall >= 0.95
    assert result.points[-1].build_seconds is None
    file = next((tmp_path / "ann").iterdir())
    assert result.points[-1].memory_bytes == file.stat().st_size


def test_vectors_are_searched_without_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("an encoder was made")

    monkeypatch.setattr(TowerEncoder, "__init__", refuse)
    result = benchmark_index(store(tmp_path, drawn(300), kind="hnsw"), k=3, queries=5)
    assert result.points[-1].setting == "engine"


def test_other_kinds_are_built_without_changing_the_index(tmp_path: Path) -> None:
    snapshot = store(tmp_path, drawn(600), kind="hnsw")
    before = sorted(tmp_path.rglob("*"))
    result = benchmark_index(snapshot, kinds=("ivf", "flat", "ivf"), queries=30)
    assert sorted(tmp_path.rglob("*")) == before
    assert [kind for kind, _ in groupby(result.points, key=lambda point: point.kind)] == ["ivf", "flat"]
    assert by_setting(result)["ivf engine"].recall >= 0.95
    assert result.points[0].build_seconds is not None


def test_copies_cost_no_recall(tmp_path: Path) -> None:
    """Thirty copies of each of twenty vectors: it does not matter which ten of the thirty are found."""
    copies = np.repeat(drawn(20), 30, axis=0)
    points = by_setting(benchmark_index(store(tmp_path, copies), kinds=("flat", "hnsw"), queries=30))
    assert max(point.recall for name, point in points.items() if name.startswith("hnsw")) == 1.0


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Forty rows with only four different vectors."""
    choice = np.random.default_rng(0).integers(0, 4, 40)
    return store(tmp_path_factory.mktemp("tied"), drawn(4)[choice])


@given(seed=st.integers(0, 50), found=st.lists(st.permutations(range(-3, 40)), min_size=3, max_size=3))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("k", [1, 15, 25, 40])
def test_recall_is_the_overlap_of_the_scores(tied: Snapshot, k: int, seed: int, found: list[list[int]]) -> None:
    """The reference is the size of the intersection of two multisets of scores, divided by k."""
    queries = drawn(3, stream=seed + 2)
    answer = np.array([[max(-1, row) for row in one[:k]] for one in found], dtype=np.int64)
    vectors = np.asarray(tied.shards[0].vectors, dtype=np.float64)
    shared = 0
    for query, ids in zip(queries, answer, strict=True):
        scores = np.round(vectors @ query, 5)
        best = Counter(np.sort(scores)[::-1][:k].tolist())
        shared += (best & Counter(scores[ids[ids >= 0]].tolist())).total()
    assert recall_of(ExactNeighbours.of(tied, queries, k), answer) == shared / (3 * k)


def made(recall: float, rate: float) -> AnnPoint:
    return AnnPoint(
        kind="flat",
        factory=None,
        setting="exact",
        recall=recall,
        queries_per_second=rate,
        p50_ms=1.0,
        p95_ms=1.0,
        p99_ms=1.0,
        memory_bytes=1,
        build_seconds=None,
    )


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), max_size=12))
def test_the_pareto_front_is_not_dominated(values: list[tuple[int, int]]) -> None:
    """The reference sweeps from high to low recall: a point is on the front if it is faster than all before it."""
    marked = mark_front([made(recall / 6, float(rate)) for recall, rate in values])
    front, fastest = set(), 0
    for recall in sorted({recall for recall, _ in values}, reverse=True):
        best = max(rate for other, rate in values if other == recall)
        if best > fastest:
            front.add((recall, best))
            fastest = best
    assert [one.on_front for one in marked] == [value in front for value in values]


def test_percentiles_are_of_queries_run_alone(monkeypatch: pytest.MonkeyPatch, tied: Snapshot) -> None:
    """Queries take 1 ms, 2 ms, ... 200 ms in random order; percentiles between two of them are interpolated."""
    order = iter(np.random.default_rng(0).permutation(np.arange(1, 201)).tolist())
    now = [0.0]

    search = ExactIndex.search

    def slow_search(index: ExactIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        now[0] += 0.5 if len(queries) > 1 else next(order) / 1000
        return search(index, queries, k)

    monkeypatch.setattr(ExactIndex, "search", slow_search)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    result = benchmark_index(tied, kinds=("flat",), queries=200)
    found = result.points[0]
    assert found.queries_per_second == 400.0
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == pytest.approx((100.5, 190.05, 198.01))


def test_what_cannot_be_measured_is_reported(tmp_path: Path) -> None:
    snapshot = store(tmp_path / "exact", drawn(30))
    with pytest.raises(StoreError, match=r"exact has no approximate index; its 30 images are .* exactly\.$") as caught:
        benchmark_index(snapshot)
    assert caught.value.hint.startswith("--kinds flat,hnsw,ivf builds")
    with Writer.open(tmp_path / "empty", model=MODEL, dim=DIM):
        pass
    for kinds in ((), ("flat",)):
        with pytest.raises(StoreError, match="empty has no images"):
            benchmark_index(Snapshot(tmp_path / "empty"), kinds=kinds)
    with pytest.raises(QueryError, match="31 neighbours cannot be found among 30 vectors"):
        benchmark_index(snapshot, kinds=("flat",), k=31)
    with pytest.raises(QueryError, match="11 neighbours cannot be found among 10 vectors"):
        benchmark_synthetic(10, dim=DIM, k=11)
    with pytest.raises(QueryError, match="1001 neighbours are always exact, as for all k over 1000"):
        benchmark_synthetic(2000, dim=DIM, k=1001)
    for bad in ("lsh", "auto", ""):
        with pytest.raises(CorpusError, match=f"no kind of index '{bad}'; there are flat, hnsw, ivf"):
            benchmark_index(snapshot, kinds=("flat", bad))
    assert benchmark_index(snapshot, kinds=("flat",), k=30, queries=1).points[0].recall == 1.0


@pytest.mark.parametrize("kinds", [("flat",), ("flat", "ivf")])
def test_points_and_picture_are_written(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    result = benchmark_synthetic(200, dim=DIM, kinds=kinds, queries=20)
    written = write_ann(result, tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["ann.jsonl", "ann.png"]
    assert [json.loads(line) for line in written[0].read_text().splitlines()] == list(result.to_dicts())
    with Image.open(written[1]) as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 50  # something is drawn


def test_without_matplotlib_or_a_folder_it_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = benchmark_synthetic(100, dim=DIM, kinds=("flat",), queries=5)
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"The folder .*file cannot be created: File exists"):
        write_ann(result, tmp_path / "file")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CorpusError, match=r"pip install 'llm2clip-search\[bench\]'"):
        write_ann(result, tmp_path)
    assert (tmp_path / "ann.jsonl").exists()


def test_faiss_driven_directly_is_measured_beside_the_engine() -> None:
    """Its own refinement of lists that were trained alike finds what the engine finds."""
    points = benchmark_synthetic(900, dim=DIM, kinds=("faiss",), queries=30).points
    assert {point.kind for point in points} == {"faiss"}
    assert all(re.fullmatch(r"nprobe=\d+", point.setting) for point in points)
    assert str(points[0].factory).endswith("RR16,IVF22,RaBitQ2,Refine(SQfp16)")
    assert points[-1].recall > 0.95
    assert min(point.memory_bytes for point in points) > 900 * DIM * 2


@pytest.mark.parametrize("name", ["hnswlib", "usearch", "voyager"])
def test_other_libraries_are_measured_if_they_are_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec(name) is not None:
        points = benchmark_synthetic(400, dim=DIM, kinds=(name,), queries=30).points
        assert points[-1].recall > 0.95
        assert str(points[0].factory).startswith(name)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.index", None)
    with pytest.raises(CorpusError, match=f"{name} is not installed"):
        benchmark_synthetic(100, dim=DIM, kinds=(name,), queries=5)
