"""Processes that read an index while another one writes it."""

from pathlib import Path

import pytest

from llm2clip_search.benchmarks.perf.soak import soak


@pytest.mark.slow
@pytest.mark.parametrize(("readers", "seconds"), [(2, 0), (8, 120)])
def test_every_answer_is_consistent_with_one_commit(tmp_path: Path, readers: int, seconds: float) -> None:
    found = soak(tmp_path, readers=readers, seconds=seconds)
    assert (found.errors, found.inconsistent, found.example) == (0, 0, "")
    assert found.is_good
    assert found.exact
    assert found.approximate
    assert found.opened > 1
    assert found.answers >= found.exact + found.approximate
