"""A query that was asked before."""

import json
from pathlib import Path

import pytest

from llm2clip_search.encoders import tower_encoder
from tests.support.commands import RunCli


def test_a_repeated_query_loads_no_model(indexed: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hits and warnings are the same; another caption, and ``--no-cache``, need the model."""
    long = " ".join(["a very black dog"] * 40)
    before = [run_cli("query", caption, "--json", cwd=indexed) for caption in ("a black dog", long)]

    def load_tower(*_: object, **__: object) -> None:
        raise AssertionError("a tower is loaded")

    for load in ("load_tower", "load_text_graph"):
        monkeypatch.setattr(tower_encoder, load, load_tower)
    after = [run_cli("query", caption, "--json", cwd=indexed) for caption in ("a black dog", long)]
    assert [(done.stdout, done.stderr) for done in after] == [(done.stdout, done.stderr) for done in before]
    assert "tokens long" in after[1].stderr
    assert json.loads(after[0].stdout.splitlines()[0])["rank"] == 1
    assert run_cli("query", "a black dog", "--no-cache", cwd=indexed).returncode == 1
    assert run_cli("query", "a white dog", cwd=indexed).returncode == 1
