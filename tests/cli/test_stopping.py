"""Signals that come while a command writes."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search import encoders
from llm2clip_search.base.progress import no_progress
from llm2clip_search.cli.stopping import Stopped, stopped_between_items
from llm2clip_search.store import Snapshot
from tests.support.commands import RunCli
from tests.support.encoders import ColourEncoder

TWICE = """
import signal
from llm2clip_search.base.progress import no_progress
from llm2clip_search.cli.stopping import stopped_between_items

with stopped_between_items(no_progress) as progress:
    progress("images", 0, 2, {})
    signal.raise_signal(signal.SIGTERM)
    print("goes on", flush=True)
    signal.raise_signal(signal.SIGINT)
    print("went on", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_commits_what_is_embedded(
    number: signal.Signals,
    photographs: Path,
    colours: ColourEncoder,
    run_cli: RunCli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run ends after the next image; the next run does the rest.

    How many images that is depends on the thread that embeds: the signal comes
    in the third batch of four, when one or two are taken into the index.
    """
    real, before = colours.encode_pixels, signal.getsignal(number)

    def interrupted(pixels: np.ndarray) -> np.ndarray:
        if colours.embedded == 8:
            signal.raise_signal(number)
        return real(pixels)

    monkeypatch.setattr(colours, "encode_pixels", interrupted)
    monkeypatch.setattr(encoders, "load_encoder", lambda name, **placed: colours)
    done = run_cli("index", photographs, "--batch-size", "4")
    assert done.returncode == 128 + number
    assert "stopping, and committing what is embedded; a second signal ends at once" in done.stderr
    held = Snapshot(photographs.parent / ".llm2clip").manifest.live
    assert 4 <= held <= 9
    assert f"stopped by {number.name}; the index holds {held} images" in done.stderr
    assert signal.getsignal(number) == before
    monkeypatch.setattr(colours, "encode_pixels", real)
    assert run_cli("index", photographs).returncode == 0
    assert Snapshot(photographs.parent / ".llm2clip").manifest.live == 12


def test_a_second_signal_ends_the_process_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "goes on\n")


def test_a_signal_before_anything_is_done_ends_the_work_where_it_is() -> None:
    def work() -> None:
        with stopped_between_items(no_progress):
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the work went on")

    with pytest.raises(Stopped) as caught:
        work()
    assert caught.value.exit_code == 143


def test_a_signal_after_the_last_report_is_not_lost() -> None:
    """A command with several sources must not begin the next one."""
    done: list[str] = []

    def work() -> None:
        with stopped_between_items(no_progress) as progress:
            progress("images", 1, 1, {})
            signal.raise_signal(signal.SIGINT)
            done.append("the index")

    with pytest.raises(Stopped):
        work()
    assert done == ["the index"]
