"""The scale benchmark on a few rows: what it counts, what it writes, and what it refuses."""

import json
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.perf import scale
from llm2clip_search.benchmarks.perf.scale import CONDITIONS, benchmark_scale, synthetic_row
from llm2clip_search.errors import CorpusError
from tests.support.commands import RunCli, is_one_error


def test_an_index_is_grown_and_measured_at_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "BLOCK", 50)
    points = list(benchmark_scale([120, 400], dim=8))
    assert [point.rows for point in points] == [120, 400]
    assert [point.shards for point in points] == [3, 2]  # eight shards of 8 to 63 rows are merged into one
    for point in points:
        assert point.filter_ms.keys() == CONDITIONS.keys()
        assert min(point.commit_ms, point.rows_per_second, point.open_ms, point.search.exact_ms, point.join_ms) > 0
        assert point.join_again_ms > 0
        assert point.scan_ms.keys() == CONDITIONS.keys()
        assert (point.search.ann, point.search.recall) == (None, 1.0)
        assert [cost.recall for cost in point.search.filtered] == [1.0] * 4
        assert point.bytes_per_row > 2 * 8
    assert points[0].peak_gb <= points[1].peak_gb


def test_the_conditions_leave_what_they_are_named_for() -> None:
    rows = [synthetic_row(number) for number in range(20_000)]
    widths = [row.width or 0 for row in rows]
    assert sum(100 <= width <= 199 for width in widths) == pytest.approx(200, rel=0.2)
    assert sum(width >= 5100 for width in widths) == pytest.approx(10_000, rel=0.05)
    assert sum("/2004/" in row.path for row in rows) == pytest.approx(800, rel=0.1)


def test_the_command_prints_a_table_and_writes_a_plot(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("bench", "scale", "--sizes", "30,60", "--dim", "4", "--out", "plots")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.split()[0] in ("30", "60")] == [
        "30",
        "60",
    ] * 3 + ["30"] * 4 + ["60"] * 4
    lines = [json.loads(line) for line in (tmp_path / "plots" / "scale.jsonl").read_text().splitlines()]
    assert [line["rows"] for line in lines] == [30, 60]
    assert (tmp_path / "plots" / "scale.png").stat().st_size > 10_000
    as_json = run_cli("bench", "scale", "--sizes", "30", "--dim", "4", "--json")
    assert json.loads(as_json.stdout)["rows"] == 30


@pytest.mark.parametrize("sizes", ["", "many", "5,3", "0,4", "3,3"])
def test_sizes_that_cannot_be_are_one_sentence(run_cli: RunCli, sizes: str) -> None:
    done = run_cli("bench", "scale", "--sizes", sizes)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_error(done.stderr)


def test_no_sizes_are_refused() -> None:
    with pytest.raises(CorpusError, match="ascend"):
        next(benchmark_scale([]))
