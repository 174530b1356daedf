"""Options of approximate search as a user gives them: chosen, remembered, explained, refused."""

import json
import shutil
from pathlib import Path

import pytest

from llm2clip_search.cli.sizes import to_bytes
from llm2clip_search.errors import StoreError
from llm2clip_search.store import Manifest, Snapshot, Writer
from tests.support.commands import RunCli, is_one_error
from tests.support.vectors import prefer_approximate


@pytest.fixture
def index(indexed: Path, tmp_path: Path) -> Path:
    """A copy of the session's index, to change."""
    shutil.copytree(indexed, tmp_path / "copy")
    return tmp_path / "copy"


def manifest(folder: Path) -> Manifest:
    return Snapshot(folder / ".llm2clip").manifest


def test_what_was_chosen_is_kept_shown_and_compared(index: Path, run_cli: RunCli) -> None:
    done = run_cli("index", "images", "--ann", "ivf", "--recall", "0.9", "--memory", "1GB", cwd=index)
    assert done.returncode == 0, done.stderr
    assert "approximate search (IVF1,SQfp16)" in done.stderr
    assert run_cli("index", "images", cwd=index).returncode == 0
    config = manifest(index).ann_config
    assert config is not None
    assert (config.kind, config.recall, config.memory) == ("ivf", 0.9, 10**9)
    shown = run_cli("info", cwd=index).stdout
    assert "1.000 in" in shown.split("recall")[1]
    assert "(recall@10 of midpoints)" in shown
    with Writer.open(index / ".llm2clip", model=manifest(index).model, dim=manifest(index).dim) as writer:
        prefer_approximate(writer)
    explained = run_cli("query", "a black dog", "-k", "3", "--explain", cwd=index).stderr
    assert "plan: approximate on the cpu" in explained
    assert "recall@10 1.000 for midpoints when it was built" in explained
    assert "check: 3 of the 3 exact results" in explained
    exact = run_cli("query", "a black dog", "-k", "3", "--recall", "1", "--explain", cwd=index).stderr
    assert "plan: exact on the cpu" in exact
    assert run_cli("index", "images", "--ann", "flat", cwd=index).returncode == 0
    assert run_cli("index", "images", cwd=index).returncode == 0
    assert manifest(index).ann is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index", "images", "--recall", "1.5"), "A recall of 1.5 cannot be aimed at"),
        (("index", "images", "--memory", "much"), "'much' is not an amount of memory"),
        (("index", "images", "--ann", "ivf", "--memory", "10"), "fits in 0.0 MB; the smallest, IVF1,SQfp16, takes"),
        (("index", "images", "--ann", "ivfpq"), "trained on at least 256 vectors, but there are"),
        (("index", "images", "--ann", "cagra"), "kind cagra is trained on at least 129 vectors, but there are"),
        (("query", "a dog", "--recall", "0"), "The recall is 0.0; it must be above 0"),
        (("query", "a dog", "--where", "length(repeat('x', 2000000000)) > 0"), "cannot use the function repeat"),
    ],
)
def test_what_cannot_be_is_one_sentence(index: Path, run_cli: RunCli, arguments: tuple[str, ...], message: str) -> None:
    done = run_cli(*arguments, cwd=index)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert is_one_error(done.stderr)
    assert json.loads(run_cli("info", "--json", cwd=index).stdout)["ann"] is None


@pytest.mark.parametrize(
    ("text", "count"), [("4GB", 4 * 10**9), ("512 MiB", 2**29), ("1.5k", 1500), ("77", 77), (" 2 tb ", 2 * 10**12)]
)
def test_amounts_of_memory_are_read(text: str, count: int) -> None:
    assert to_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1.GB", "1e9", "4 GBit"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(StoreError, match="is not an amount of memory"):
        to_bytes(text)
