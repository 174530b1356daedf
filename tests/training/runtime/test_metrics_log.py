"""The log survives kills and resumed runs: it has each step once, as last computed."""

import json
import sys
from pathlib import Path

import pytest

from llm2clip_search.training.runtime.metrics_log import MetricsLog, headlines, read_metrics


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def write(out: Path, resume_at: int, steps: range, loss: float) -> None:
    """Write steps as the loop does, with an evaluation at each even one."""
    log = MetricsLog(out, resume_at=resume_at)
    for step in steps:
        log.write(step, {"loss": loss, "learning_rate": 1e-4})
        if step % 2 == 0:
            log.write(step, {"dev/caption_retrieval": loss / 10})
    log.close()


def losses(out: Path) -> dict[int, float]:
    lines = [line for line in read_metrics(out / "metrics.jsonl") if "loss" in line]
    assert len({line["step"] for line in lines}) == len(lines), "a step occurs twice"
    return {line["step"]: line["loss"] for line in lines}


@pytest.mark.usefixtures("no_tensorboard")
def test_steps_after_the_checkpoint_are_written_once(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 6), 3.0)
    write(tmp_path, 2, range(3, 7), 2.0)
    assert losses(tmp_path) == {1: 3.0, 2: 3.0, 3: 2.0, 4: 2.0, 5: 2.0, 6: 2.0}
    dev = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" not in line]
    assert dev == [{"step": step, "dev/caption_retrieval": value} for step, value in ((2, 0.3), (4, 0.2), (6, 0.2))]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.usefixtures("no_tensorboard")
def test_a_new_run_starts_a_new_log(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 4), 3.0)
    write(tmp_path, 0, range(1, 2), 1.0)
    assert losses(tmp_path) == {1: 1.0}


@pytest.mark.usefixtures("no_tensorboard")
def test_a_kill_at_any_byte_of_a_line_loses_only_that_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(tmp_path, 0, range(1, 4), 3.0)
    whole = path.read_bytes()
    begin = whole.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(begin, len(whole)):
        path.write_bytes(whole[:end])
        write(tmp_path, 2, range(3, 5), 2.0)
        assert losses(tmp_path) == {1: 3.0, 2: 3.0, 3: 2.0, 4: 2.0}
    path.write_bytes(whole[:begin] + b"\0\0\xff")  # what a power cut may leave
    write(tmp_path, 2, range(3, 4), 2.0)
    assert losses(tmp_path) == {1: 3.0, 2: 3.0, 3: 2.0}


@pytest.mark.usefixtures("no_tensorboard")
def test_a_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, resume_at=0)
    log.write(1, {"loss": 3.0})
    assert losses(tmp_path) == {1: 3.0}
    log.close()


@pytest.mark.usefixtures("no_tensorboard")
def test_values_keep_six_digits_and_non_finite_ones_are_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, resume_at=0)
    log.write(1, {"loss": 2.123456789, "learning_rate": 3.2123456e-9, "gradient_norm": float("inf")})
    log.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"step": 1, "loss": 2.12346, "learning_rate": 3.21235e-09, "gradient_norm": None}


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_tensorboard_events_equal_the_lines(tmp_path: Path) -> None:
    """Also for a killed run, whose writer is not closed."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed = MetricsLog(tmp_path, resume_at=0)
    for step in range(1, 6):
        killed.write(step, {"loss": 3.0})
    write(tmp_path, 2, range(3, 7), 2.0)
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert {event.step: event.value for event in events.Scalars("loss")} == losses(tmp_path)
    assert len(events.Scalars("loss")) == 6
    killed.close()


def test_headlines_are_metrics_without_a_group_and_the_first_metric_of_all_groups() -> None:
    groups = ("coco/en", "flickr8k/en", "flickr8k/de")
    names = [f"{group}/{kind}" for group in groups for kind in ("mean_recall", "image_retrieval_recall@1")]
    first = ["coco/en/mean_recall", "flickr8k/en/mean_recall", "flickr8k/de/mean_recall"]
    assert headlines(names) == first
    assert headlines(["mean_recall", *names]) == ["mean_recall", *first]
    assert headlines(["caption_retrieval", "loss"]) == ["caption_retrieval", "loss"]
    assert headlines([]) == []
