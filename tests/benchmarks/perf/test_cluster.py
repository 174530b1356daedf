"""The benchmark of clusters: both runs give one index, and the command prints what they took."""

import json
from pathlib import Path

import pytest

from tests.support.commands import RunCli, is_one_error
from tests.support.images import photograph


@pytest.mark.slow
def test_a_run_here_and_one_on_two_nodes_give_the_same_index(run_cli: RunCli, tiny_model: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        photograph(number, (64, 48)).save(images / f"{number}.png")
    done = run_cli("bench", "cluster", str(images), "--model", f"dir:{tiny_model}", "--json")
    [cost] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (cost["images"], cost["nodes"], cost["equal_rows"], cost["equal_bits"]) == (40, 2, True, True)
    assert cost["overhead"] == pytest.approx(cost["cluster_s"] / cost["local_s"] - 1)
    assert cost["driver_s"] > 0


def test_a_source_that_is_not_there_is_one_sentence(run_cli: RunCli, tiny_model: Path) -> None:
    done = run_cli("bench", "cluster", "missing", "--model", f"dir:{tiny_model}")
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_error(done.stderr)
    assert "missing" in done.stderr
