"""Captions per second beside a plain loop."""

from pathlib import Path

import pytest

from llm2clip_search.benchmarks.perf.captions import measure_captions, read_captions
from llm2clip_search.errors import CorpusError
from tests.support.corpus import write_csv


def test_all_ways_embed_the_same_captions_alike(tmp_path: Path, tiny_model: Path) -> None:
    texts = [f"{'road ' * (number % 4)}with {number} dogs" for number in range(40)]
    tables = [
        write_csv(tmp_path / "a.csv", [{"caption": text, "lang": "en"} for text in texts[:30]]),
        write_csv(tmp_path / "b.csv", [{"caption": text} for text in texts[30:]]),
    ]
    captions = read_captions(tables, most=100)
    assert sorted(captions) == sorted(texts)
    assert read_captions(tables, most=7) == captions[:7]
    speeds = list(measure_captions(f"dir:{tiny_model}", captions, rounds=2))
    assert [speed.way for speed in speeds] == ["this program", "loop", "loop in PyTorch"]
    for speed in speeds:
        assert speed.captions == 40
        assert speed.min_cosine == pytest.approx(1.0, abs=1e-4)
        assert 0 < speed.lowest <= speed.per_second <= speed.highest
        assert 0 < speed.tokens < speed.longest


def test_tables_without_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has no column 'caption'"):
        read_captions([write_csv(tmp_path / "a.csv", [{"text": "a dog"}])], most=1)
    with pytest.raises(CorpusError, match="no captions in these tables"):
        read_captions([write_csv(tmp_path / "b.csv", [{"caption": "", "n": "1"}])], most=1)
