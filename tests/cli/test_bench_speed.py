"""``bench speed`` as a user runs it."""

import json
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.perf import speed
from llm2clip_search.benchmarks.perf.speed import IndexSpeed
from tests.support.commands import RunCli


def test_the_command_measures_a_cold_query_too(photographs: Path, run_cli: RunCli, tiny_model: Path) -> None:
    """It runs in its own process, which must find the model and the temporary index."""
    model = ("--model", f"dir:{tiny_model}", "--runtime", "torch", "--device", "cpu")
    done = run_cli("bench", "speed", photographs, *model, "--rounds", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    measured = json.loads(done.stdout)
    assert (measured["images"], measured["rounds"]) == (12, 1)
    assert measured["cold"] > measured["caption"] > 0
    assert list(measured) == list(IndexSpeed.__dataclass_fields__)


MEASURED = IndexSpeed(
    images=1000,
    rounds=3,
    tower=74.4,
    read=1860.0,
    decode=372.0,
    write=37.2,
    slowest="write",
    index=67.2,
    first=14.9,
    again=0.0298,
    caption=0.033,
    cold=1.1,
    text_tower=25.0,
)


def test_every_stage_has_a_line(run_cli: RunCli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measure_index_speed", lambda *arguments, **options: MEASURED)
    done = run_cli("bench", "speed", ".", "--model", f"dir:{tiny_model}")
    assert done.stdout.splitlines() == [
        "walk, read, hash      1860.0 images/s (2500 % of vision-tower speed)",
        "decode, resize         372.0 images/s (500 % of vision-tower speed)",
        "write                   37.2 images/s (50 % of vision-tower speed)",
        "complete index run      67.2 images/s (90 % of vision-tower speed)",
        "vision tower alone      74.4 images/s",
        "slowest stage          write",
        "second index run       0.030 s (0.2 % of the first)",
        "text tower alone        25.0 captions/s",
        "one query               33.0 ms with index and model loaded",
        "query command         1100.0 ms in its own process, including start-up",
    ]
