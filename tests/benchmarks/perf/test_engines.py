"""The benchmark of engines on a few rows: what it counts, prints and refuses."""

import json
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.perf import engines
from llm2clip_search.benchmarks.perf.engines import CONDITIONS, benchmark_engines
from llm2clip_search.errors import CorpusError, EngineError
from llm2clip_search.vectorindex.serving.lance import LanceEngine
from tests.support.commands import RunCli, is_one_error


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "CHANGED", 40)
    monkeypatch.setattr(engines, "QUERIES", 4)
    monkeypatch.setattr(engines, "WARM", 2)


def test_engines_are_measured_beside_the_index(tmp_path: Path) -> None:
    report = benchmark_engines(1200, dim=8, scratch=tmp_path)
    assert [each.system for each in report.published] == ["qdrant-edge", "lance"]
    assert [(each.added, each.changed, each.deleted) for each in report.published] == [(1200, 0, 0)] * 2
    assert [(each.added, each.changed, each.deleted) for each in report.updated] == [(0, 40, 40)] * 2
    for answers in (report.answers, report.answers_after):
        asked = [(each.system, each.share) for each in answers]
        engines = [f"{name}{alone}" for name in ("qdrant-edge", "lance") for alone in ("", " alone")]
        assert asked == [(name, share) for name in ("exact", "index", *engines) for share in CONDITIONS]
        assert all(each.recall >= 0.95 and each.p95_ms >= each.ms > 0 for each in answers)
        devices = {each.system: each.plan.partition(" on ")[2].partition(",")[0] for each in answers}
        assert devices["qdrant-edge alone"] == devices["lance alone"] == "engine"
        assert all(each.recall == 1.0 for each in answers if each.system == "exact")
    assert list(tmp_path.iterdir()) == []


def test_a_deletion_that_is_lost_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanceEngine, "delete", lambda self, ids: None)
    with pytest.raises(EngineError, match="holds 400 rows, but the index 360"):
        benchmark_engines(400, dim=8, to=["lance"], scratch=tmp_path)


def test_the_command_prints_tables(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("bench", "engines", "--rows", "400", "--dim", "4", "--to", "lance", "--scratch", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()].count("lance") == 2 + 4 * len(CONDITIONS)
    as_json = run_cli("bench", "engines", "--rows", "400", "--dim", "4", "--to", "lance", "--json")
    assert json.loads(as_json.stdout)["updated"][0]["deleted"] == 40


@pytest.mark.parametrize("options", [["--rows", "100"], ["--rows", "400", "--to", "oracle:x"]])
def test_what_cannot_be_measured_is_one_sentence(run_cli: RunCli, options: list[str]) -> None:
    done = run_cli("bench", "engines", *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_error(done.stderr)


def test_few_rows_are_refused() -> None:
    with pytest.raises(CorpusError, match="160 rows or more, not 159"):
        benchmark_engines(159)
