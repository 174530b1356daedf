"""``bench report`` as a user types it."""

from dataclasses import replace
from pathlib import Path

from llm2clip_search.benchmarks.results import write_results
from tests.support.commands import RunCli
from tests.support.results import result_of


def test_the_command_writes_a_report_and_prints_its_paths(run_cli: RunCli, tmp_path: Path) -> None:
    for model in ("nano", "large"):
        results = [replace(result_of(model, language=lang), dataset="flickr30k", split="test") for lang in ("en", "zh")]
        write_results(tmp_path / f"{model}.json", results)
    done = run_cli("bench", "report", "nano.json", "large.json", "--out", "report", "--against", "paper")
    assert done.returncode == 0, done.stderr
    names = ["report.md", "report.csv", "recalls.png", "lengths.png", "languages.png"]
    assert done.stdout.splitlines() == [f"report/{name}" for name in names]
    assert done.stderr == ""
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "EVA02 L/14-336[^llm2clip-v6]" in text
    assert text.count("`large`") > 2


def test_a_file_of_another_kind_is_refused_and_nothing_written(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"accuracy": 1}')
    done = run_cli("bench", "report", "other.json", "--out", "report")
    assert done.returncode == 1
    assert done.stderr.startswith("error: other.json is not a file of retrieval results: ")
    assert "hint: bench retrieval --out writes such files." in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report").exists()
