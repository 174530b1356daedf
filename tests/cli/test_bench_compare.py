"""``bench compare`` as a user types it."""

import json
from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from llm2clip_search.benchmarks.compare import compare_runs
from llm2clip_search.benchmarks.results import RetrievalResult, write_results
from llm2clip_search.cli.app import app
from tests.support.commands import RunCli
from tests.support.results import result_of

A = [result_of("nano", language=lang) for lang in ("en", "de")]
B = [result_of("large", better=4), result_of("large", language="zh")]


def test_the_command_prints_a_table_and_what_only_one_run_has(run_cli: RunCli, tmp_path: Path) -> None:
    write_results(tmp_path / "a.json", A)
    write_results(tmp_path / "b.json", B)
    done = run_cli("bench", "compare", "a.json", "b.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "note: only a.json has flickr8k dev in de.",
        "note: only b.json has flickr8k dev in zh.",
    ]
    header, *rows = done.stdout.splitlines()
    assert " ".join(header.split()) == "data set language metric nano large difference 95 % interval p"
    assert len(rows) == 6
    assert rows[0].split()[:3] == ["flickr8k", "dev", "en"]
    expected = compare_runs(A, B).differences
    for row, found in zip(rows, expected, strict=True):
        assert found.metric in row
        figures = row.split(found.metric)[1].split()
        assert figures[:2] == [f"{100 * found.a:.1f}", f"{100 * found.b:.1f}"]
        assert figures[2] == f"{100 * found.difference:+.1f}"
        assert figures[3:6] == [f"{100 * found.low:+.1f}", "to", f"{100 * found.high:+.1f}"]


def invoke(tmp_path: Path, a: list[RetrievalResult], b: list[RetrievalResult], *options: str) -> tuple[Path, Path, str]:
    """The two files and the command's stdout; exceptions are raised."""
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, results in zip(paths, (a, b), strict=True):
        write_results(path, results)
    done = CliRunner().invoke(app, ["bench", "compare", *map(str, paths), *options], catch_exceptions=False)
    return *paths, done.stdout


def test_json_is_one_object_per_row(tmp_path: Path) -> None:
    *_, printed = invoke(tmp_path, A, B, "--json")
    objects = [json.loads(line) for line in printed.splitlines()]
    assert objects == [row.to_dict() for row in compare_runs(A, B).differences]
    keys = ["dataset", "split", "language", "metric", "model_a", "model_b", "a", "b", "difference", "low", "high", "p"]
    assert list(objects[0]) == keys


def test_two_runs_of_one_model_are_told_apart_by_their_files(tmp_path: Path) -> None:
    a, b, printed = invoke(tmp_path, A, [replace(A[0], notes=("captions lower-cased",))])
    assert str(a) in printed.splitlines()[0]
    assert str(b) in printed.splitlines()[0]
