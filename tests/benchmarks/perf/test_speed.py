"""The speed measurement: what it runs and how often, consistency of its results, and errors."""

import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.benchmarks.perf.speed import QUERY_CAPTIONS, measure_index_speed
from llm2clip_search.errors import CorpusError
from tests.support.encoders import ColourEncoder


@pytest.fixture
def queried(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces the ``query`` command's process; lists the indices that it would have searched."""
    indices: list[Path] = []

    def run(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        index = Path(command[command.index("--index") + 1])
        assert (index / "manifest.json").is_file()
        indices.append(index)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return indices


def test_speed_is_measured_in_rounds(photographs: Path, colours: ColourEncoder, queried: list[Path]) -> None:
    result = measure_index_speed(colours, photographs, rounds=2, batch_size=4)
    assert (result.images, result.rounds) == (12, 2)
    measured = result.to_dict()
    slowest = measured.pop("slowest")
    assert (measured.pop("model"), measured.pop("fingerprint")) == (colours.name, colours.fingerprint)
    assert measured.pop("machine")["cores"] > 0
    assert len(measured.pop("data")) == 16
    assert measured.pop("gpu") is None or 0.0 <= (result.gpu or 0.0) <= 1.0
    assert min(measured.values()) > 0.0
    assert measured[slowest] == min(measured[stage] for stage in ("tower", "read", "decode", "write"))
    # A batch to warm up, then the tower alone and one index run a round; the second run embeds nothing.
    assert colours.images == 4 + 2 * (12 + 12)
    assert len(queried) == 2
    assert not any(index.exists() for index in queried)  # scratch folders are gone
    for path in photographs.rglob("*.png"):
        path.unlink()
    with pytest.raises(CorpusError, match="no images in"):
        measure_index_speed(colours, photographs, rounds=1)


class Timed(ColourEncoder):
    """Moves a clock. In three rounds the vision tower takes 1, 3 and 2 s, the text tower 2, 8 and 4 s for all captions
    and 0.1, 0.3 and 0.2 s for a query."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        # The first call warms the tower up; in each round the tower alone is followed by the index run.
        self.image_seconds = iter([0.0, 1.0, 0.5, 3.0, 0.5, 2.0, 0.5])
        self.caption_seconds = iter([2.0, 8.0, 4.0])
        self.query_seconds = iter([0.0, 0.1, 0.3, 0.2])

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        self.now += next(self.image_seconds)
        return super().encode_pixels(pixels)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        self.now += next(self.caption_seconds if len(texts) > 1 else self.query_seconds)
        return super().encode_texts(texts)


def test_medians_are_of_all_rounds(photographs: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Timed()
    query_seconds = iter([9.0, 1.0, 3.0])

    def run(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        encoder.now += next(query_seconds)
        return subprocess.CompletedProcess(command, 0, "", "")

    def tick() -> float:
        encoder.now += 1e-9  # or what takes no time would have an infinite rate
        return encoder.now

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(time, "perf_counter", tick)
    result = measure_index_speed(encoder, photographs, rounds=3)
    assert result.tower == pytest.approx(statistics.median([12 / 1.0, 12 / 3.0, 12 / 2.0]))
    assert result.text_tower == pytest.approx(64 / 4.0)
    assert (result.caption, result.cold) == pytest.approx((0.2, 3.0))


def test_images_that_cannot_be_read_are_left_out(
    photographs: Path, colours: ColourEncoder, queried: list[Path]
) -> None:
    (photographs / "broken.png").write_bytes(b"no image")
    result = measure_index_speed(colours, photographs, rounds=1)
    assert result.images == 13
    assert colours.images == 12 + 12 + 12
    shutil.rmtree(photographs / "2023")
    shutil.rmtree(photographs / "2024")
    with pytest.raises(CorpusError, match=r"None of the 1 images in .* can be read"):
        measure_index_speed(colours, photographs, rounds=1)


def test_a_query_that_fails_in_its_process_is_reported(photographs: Path, colours: ColourEncoder) -> None:
    with pytest.raises(CorpusError, match=r"in its own process failed with exit code 1: There is no model 'nowhere'"):
        measure_index_speed(colours, photographs, rounds=1, query_options=("--model", "nowhere"))


def test_captions_differ_and_have_the_documented_length() -> None:
    words = np.array([len(caption.split()) for caption in QUERY_CAPTIONS])
    assert len(set(QUERY_CAPTIONS)) == 64
    assert (words.min(), words.max()) == (23, 31)
