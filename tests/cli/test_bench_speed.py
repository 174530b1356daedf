"""``bench speed`` as a user runs it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.perf import speed
from llm2clip_search.benchmarks.perf.speed import IndexSpeed
from llm2clip_search.encoders import load_encoder
from tests.support.commands import RunCli, is_one_error


def test_the_command_measures_a_cold_query_too(photographs: Path, run_cli: RunCli, tiny_model: Path) -> None:
    """It runs in its own process, which must find the model and the temporary index."""
    model = ("--model", f"dir:{tiny_model}", "--runtime", "torch", "--device", "cpu")
    done = run_cli("bench", "speed", photographs, *model, "--rounds", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    measured = json.loads(done.stdout)
    assert (measured["images"], measured["rounds"]) == (12, 1)
    assert measured["cold"] > measured["caption"] > 0
    assert list(measured) == list(IndexSpeed.__dataclass_fields__)
    assert IndexSpeed.from_dict(measured).to_dict() == measured


MEASURED = IndexSpeed(
    model="tiny",
    fingerprint="0" * 16,
    data="1" * 16,
    machine={"processor": "abacus", "cores": 2, "python": "3.11.2"},
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


def test_a_run_is_compared_with_a_recorded_one(
    run_cli: RunCli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the speed in decoding, which costs the run a tenth, and a query that starts twice as fast."""
    before = replace(MEASURED, decode=744.0, index=74.4, cold=2.167)
    (tmp_path / "before.json").write_text(json.dumps(before.to_dict()))
    monkeypatch.setattr(speed, "measure_index_speed", lambda *arguments, **options: MEASURED)
    model = ("--model", f"dir:{tiny_model}")
    done = run_cli("bench", "speed", ".", *model, "--against", tmp_path / "before.json")
    assert done.stderr == ""
    assert [line.rstrip() for line in done.stdout.splitlines()[11:]] == [
        "milliseconds                         recorded      now  speed, recorded = 1",
        "vision tower, an image                  13.44    13.44                 1.00",
        "walk, read, hash, an image               0.54     0.54                 1.00",
        "decode, resize, an image                 1.34     2.69                 0.50",
        "write, an image                         26.88    26.88                 1.00",
        "complete index run, an image            13.44    14.88                 0.90",
        "second index run                        29.80    29.80                 1.00",
        "text tower, a caption                   40.00    40.00                 1.00",
        "one query, index and model loaded       33.00    33.00                 1.00",
        "start of a query command until then   2134.00  1067.00                 2.00",
        "query command                         2167.00  1100.00                 1.97",
        "An index run takes +1.44 ms per image; the stage that has changed most is decode, resize, +1.34 ms.",
    ]
    done = run_cli("bench", "speed", ".", *model, "--against", tmp_path / "before.json", "--json")
    compared = json.loads(done.stdout)["against"]
    assert compared["per_image"]["decode"]["speed"] == pytest.approx(0.5)
    assert compared["query"]["start"]["speed"] == pytest.approx(2.0)
    other = replace(before, machine={**MEASURED.machine, "processor": "slide rule"})
    (tmp_path / "before.json").write_text(json.dumps(other.to_dict()))
    done = run_cli("bench", "speed", ".", *model, "--against", tmp_path / "before.json")
    assert "recorded on another machine" in done.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ("fast", "Expecting value"),
        ("[]", "it is not a JSON object"),
        ('{"model": "nano"}', "it has no 'fingerprint'"),
        (json.dumps({**MEASURED.to_dict(), "cold": "long"}), "its 'cold' is 'long'"),
        (json.dumps({**MEASURED.to_dict(), "tower": 0.0}), "its 'tower' is 0.0"),
        (json.dumps({**MEASURED.to_dict(), "machine": "abacus"}), "its 'machine' is 'abacus'"),
    ],
)
def test_a_file_that_is_not_a_record_is_one_sentence(
    run_cli: RunCli, tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "before.json"
    if content is not None:
        path.write_text(content)
    done = run_cli("bench", "speed", ".", "--against", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_error(done.stderr)
    assert f"{path} is not a recorded measurement of speed" in " ".join(done.stderr.split())
    assert reason in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("is_same_model", "message"),
    [
        (False, "The recorded measurement is of tiny (0000000000000000), not of"),
        (True, "The recorded measurement is of 1,000 images, which are not the 12 images in"),
    ],
)
def test_a_record_of_another_model_or_other_images_is_refused(
    run_cli: RunCli, tmp_path: Path, tiny_model: Path, photographs: Path, is_same_model: bool, message: str
) -> None:
    fingerprint = load_encoder(f"dir:{tiny_model}").fingerprint if is_same_model else MEASURED.fingerprint
    (tmp_path / "before.json").write_text(json.dumps(replace(MEASURED, fingerprint=fingerprint).to_dict()))
    model = ("--model", f"dir:{tiny_model}", "--against", tmp_path / "before.json")
    done = run_cli("bench", "speed", photographs, *model)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_error(done.stderr)
    assert message in " ".join(done.stderr.split())
