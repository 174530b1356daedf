"""What training shows in a log and in a terminal."""

import io
import re
import time

import pytest
from rich.console import Console

from llm2clip_search.cli import console, progress
from llm2clip_search.cli.progress import ProgressBar

FIGURES = {"loss": 2.3149, "gradient_norm": 1.7, "samples_per_second": 96.3}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Rich's clock, that of lines and of the time left; its one item is the time."""
    now = [1000.0]
    monkeypatch.setattr(console.err, "get_time", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_half_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(log=True) as bar:
        bar("data", 0, 0, {"captions": 149_000, "photographs": 34_000, "empty": 0, "held out": 1000})
        for step in range(1, 9):
            bar("training", step, 2000, FIGURES)
            clock[0] += 10.0
        bar("evaluated", 8, 2000, {"caption_retrieval": 0.641234, "loss": 0.00123})
        bar("training", 2000, 2000, FIGURES)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "data: 149,000 captions · 34,000 photographs · 0 empty · 1,000 held out",
        "training 1 of 2,000: loss 2.315 · 96 samples/s",
        "training 4 of 2,000: loss 2.315 · 96 samples/s · 5 h 33 min left",
        "training 7 of 2,000: loss 2.315 · 96 samples/s · 5 h 32 min left",
        "evaluated 8 of 2,000: caption_retrieval 0.641 · loss 0.00123",
        "training 2,000 of 2,000: loss 2.315 · 96 samples/s",
    ]


def test_one_of_a_kind_is_in_the_singular(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"captions": 1, "copies of an image": 1, "training images that are in val": 1, "images": 0, "held out": 1}
    with ProgressBar(log=True) as bar:
        bar("data", 0, 0, counts)
    said = "data: 1 caption · 1 copy of an image · 1 training image that is in val · 0 images · 1 held out\n"
    assert capsys.readouterr().err == said


def test_a_resumed_run_counts_its_own_steps_for_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar(log=True) as bar:
        for step in range(1501, 1505):
            bar("training", step, 1514, {"samples_per_second": 6.34})
            clock[0] += 30.0
    assert capsys.readouterr().err.splitlines()[-1] == "training 1,504 of 1,514: 6.3 samples/s · 5 min left"


def test_new_work_says_so_at_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(log=True) as bar:
        bar("training", 10, 20, {"loss": 1.0})
        bar("embedding", 64, 1000, {"samples_per_second": 20.0})
    assert capsys.readouterr().err.splitlines() == [
        "training 10 of 20: loss 1.000",
        "embedding 64 of 1,000: 20 samples/s",
    ]


def test_the_time_left_of_training_includes_evaluations(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Ten steps take 100 s and the evaluation after them as long, so that ten more take 200 s."""
    with ProgressBar(log=True) as bar:
        for last in (10, 20):
            for step in range(last - 9, last + 1):
                clock[0] += 10.0
                bar("training", step, 30, {"samples_per_second": 1.0})
            for done in range(1, 6):
                clock[0] += 20.0
                bar("images for the evaluation", done, 5, {})
        clock[0] += 30.0
        bar("training", 21, 30, {"samples_per_second": 1.0})
    lines = capsys.readouterr().err.splitlines()
    evaluations = [line for line in lines if line.startswith("images for the evaluation")]
    assert [line for line in evaluations if "5 of 5" in line] == [
        "images for the evaluation 5 of 5: 0.062 images/s"
    ] * 2
    assert lines[-1] == "training 21 of 30: 1 samples/s · 3 min left"


def wait_for(text: str, screen: io.StringIO) -> None:
    """Bars are drawn ten times a second."""
    until = time.monotonic() + 10.0
    while text not in screen.getvalue():
        assert time.monotonic() < until, f"{text} is not drawn"
        time.sleep(0.02)


def test_a_terminal_gets_one_bar_and_lines_for_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, height=20, soft_wrap=True, highlight=False)
    monkeypatch.setattr("llm2clip_search.cli.terminal.err", terminal)
    with ProgressBar(log=True) as bar:
        bar("data", 0, 0, {"captions": 5})
        bar("training", 1500, 2000, FIGURES)
        bar("evaluated", 1500, 2000, {"caption_retrieval": 0.64})
        wait_for("1,500/2,000", screen)
        bar("embedding", 3, 4, {})
        wait_for("3/4", screen)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").splitlines()
    assert "data: 5 captions" in shown
    assert "evaluated 1,500 of 2,000: caption_retrieval 0.640" in shown
    assert any(re.fullmatch(r"training .*━.* 1,500/2,000 loss 2.315 · 96 samples/s *", line) for line in shown)
    assert re.match(r"embedding .* 3/4", [line for line in shown if line.strip()][-1])
    assert all(len(line) <= 80 for line in shown)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89.0, "89 s"), (90.0, "2 min"), (3599.0, "1 h 00 min"), (11_100.0, "3 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
