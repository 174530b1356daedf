"""The speed measurement: what it runs and how often, which figures agree with each other, and what it refuses."""

import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.benchmarks.perf import speed
from llm2clip_search.benchmarks.perf.speed import QUERY_CAPTIONS, measure_index_speed
from llm2clip_search.errors import CorpusError
from tests.support.encoders import ColourEncoder


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The indices that a query's own process would have been asked; whether each was there."""
    asked: list[Path] = []

    def note(index: Path, options: object) -> None:
        assert (index / "manifest.json").is_file()
        asked.append(index)

    monkeypatch.setattr(speed, "_query_in_a_process", note)
    return asked


def test_speed_is_measured_in_rounds(photographs: Path, colours: ColourEncoder, no_process: list[Path]) -> None:
    result = measure_index_speed(colours, photographs, rounds=2, batch_size=4)
    assert (result.images, result.rounds) == (12, 2)
    measured = result.to_dict()
    slowest = measured.pop("slowest")
    assert min(measured.values()) > 0.0
    assert measured[slowest] == min(measured[stage] for stage in ("tower", "read", "decode", "write"))
    # A batch to warm up, then the tower alone and one index run a round; the second run embeds nothing.
    assert colours.embedded == 4 + 2 * (12 + 12)
    assert len(no_process) == 2
    assert not any(index.exists() for index in no_process)  # scratch folders are gone
    for path in photographs.rglob("*.png"):
        path.unlink()
    with pytest.raises(CorpusError, match="no images in"):
        measure_index_speed(colours, photographs, rounds=1)


def test_medians_are_of_all_rounds(
    photographs: Path, colours: ColourEncoder, no_process: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that says how long each of three rounds took: tower, captions, warm query, cold query."""
    clock = iter([1.0, 2.0, 0.1, 9.0, 3.0, 8.0, 0.3, 1.0, 2.0, 4.0, 0.2, 3.0])
    monkeypatch.setattr(speed, "_seconds", lambda function: (function(), next(clock))[1])
    result = measure_index_speed(colours, photographs, rounds=3)
    assert result.tower == statistics.median([12 / 1.0, 12 / 3.0, 12 / 2.0])
    assert result.text_tower == 64 / 4.0
    assert (result.caption, result.cold) == (0.2, 3.0)


def test_images_that_cannot_be_read_are_left_out(
    photographs: Path, colours: ColourEncoder, no_process: list[Path]
) -> None:
    (photographs / "broken.png").write_bytes(b"no image")
    result = measure_index_speed(colours, photographs, rounds=1)
    assert result.images == 13
    assert colours.embedded == 12 + 12 + 12
    shutil.rmtree(photographs / "2023")
    shutil.rmtree(photographs / "2024")
    with pytest.raises(CorpusError, match=r"None of the 1 images in .* can be read"):
        measure_index_speed(colours, photographs, rounds=1)


def test_a_query_that_fails_in_its_process_is_told(photographs: Path, colours: ColourEncoder) -> None:
    with pytest.raises(CorpusError, match=r"in a process of its own ended with 1: There is no model 'nowhere'"):
        measure_index_speed(colours, photographs, rounds=1, query_options=("--model", "nowhere"))


def test_captions_differ_and_have_the_length_that_is_told() -> None:
    words = np.array([len(caption.split()) for caption in QUERY_CAPTIONS])
    assert len(set(QUERY_CAPTIONS)) == 64
    assert (words.min(), words.max()) == (23, 31)
