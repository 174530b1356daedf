"""Plots of a run: they exist, are readable, and never stop a run."""

import logging
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm2clip_search.base import plotting
from llm2clip_search.training.runtime import plots
from llm2clip_search.training.runtime.metrics_log import MetricsLog
from llm2clip_search.training.runtime.plots import Similarities, plot_run, smoothed, spread_labels


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the log of 30 steps and 3 evaluations."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = MetricsLog(tmp_path, resume_at=0)
    for step in range(1, 31):
        log.write(step, {"loss": 3.0 / step, "learning_rate": 1e-4, "gradient_norm": float("nan")})
        if step % 10 == 0:
            log.write(step, {"dev/mean_recall": step / 100, "dev/image_retrieval_recall@1": float("nan")})
    log.close()
    return tmp_path


def test_both_plots_are_drawn(run: Path) -> None:
    pytest.importorskip("matplotlib")
    generator = np.random.default_rng(0)
    similarities = Similarities(generator.normal(0.6, 0.1, 50), generator.normal(0.1, 0.1, 5000))
    assert plot_run(run, similarities) == [run / "training.png", run / "similarity.png"]
    for name in ("training.png", "similarity.png"):
        with Image.open(run / name) as picture:
            assert picture.width == 1350
            assert len(set(picture.convert("L").tobytes())) > 20, "the plot is empty"


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_runs_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Also with pairs that all have the same similarity, as untrained towers may give."""
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = MetricsLog(tmp_path, resume_at=0)
    for step in range(1, steps + 1):
        log.write(step, {"loss": 0.0, "learning_rate": 0.0})
    log.write(steps, {"dev/caption_retrieval": 0.0})
    log.close()
    assert len(plot_run(tmp_path, Similarities(np.ones(3), np.ones(3)))) == 2


def test_plots_without_data_are_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plot_run(tmp_path, Similarities(np.empty(0), np.empty(0))) == []
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_a_warning_says_how_to_get_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(logging.getLogger("llm2clip_search"), "handlers", [])  # no command shows the log
    assert plot_run(run) == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "matplotlib is missing: pip install 'llm2clip-search[train]'" in caplog.text
    assert capsys.readouterr() == ("", ""), "the library does not print"


def test_matplotlib_is_not_imported_before_something_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))):
        monkeypatch.setitem(sys.modules, name, None)
    for module in (plots, plotting):
        runpy.run_path(str(module.__file__))


def test_pairs_match_when_they_share_an_image() -> None:
    generator = np.random.default_rng(0)
    queries, gallery = (generator.normal(size=(n, 4)).astype(np.float32) for n in (3, 5))
    query_of, gallery_of = np.array([7, 8, 9]), np.array([9, 9, 7, 8, 5])
    found = Similarities.between(queries, gallery, query_of, gallery_of)
    expected = [queries[q] @ gallery[g] for q, g in ((0, 2), (1, 3), (2, 0), (2, 1))]
    np.testing.assert_allclose(found.matching, expected, rtol=1e-5)
    assert len(found.others) == 3 * 5 - 4


def test_smoothing_keeps_a_constant_and_the_length() -> None:
    for length in (1, 2, 14, 15, 16, 500):
        np.testing.assert_allclose(smoothed(np.full(length, 2.5)), np.full(length, 2.5))


def test_labels_keep_their_order_and_distance() -> None:
    positions = {"a": 0.99, "b": 0.5, "c": 0.98, "d": 0.51, "e": 0.0, "f": 1.0}
    found = spread_labels(positions, 0.07)
    assert list(found) == sorted(positions, key=positions.__getitem__)
    assert min(np.diff(list(found.values()))) >= 0.07 - 1e-9
    assert 0.0 <= min(found.values()) <= max(found.values()) <= 1.0
