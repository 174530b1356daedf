"""What every room stands on: files that are whole or absent, arithmetic on vectors, lazy values, memory."""

import gc
import itertools
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llm2clip_search.base.files import file_sha256, new_folder, replace_file, replaced_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.lazy import Lazy
from llm2clip_search.base.memory import peak_bytes, private_bytes, resident_bytes, return_freed_memory
from llm2clip_search.base.vectors import batches_by_length, top_k, unit


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    replace_file(path, b"old")
    with pytest.raises(ZeroDivisionError), replaced_file(path) as temporary:
        temporary.write_bytes(b"new" * (1 // 0))
    assert path.read_bytes() == b"old"
    with replaced_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["x"]
    assert file_sha256(path) == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"


def test_a_new_folder_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with pytest.raises(ZeroDivisionError), new_folder(target) as folder:
        (folder / "x").write_bytes(b"x" * (1 // 0))
    assert names(tmp_path / "deep") == []
    with new_folder(target) as folder:
        (folder / "x").touch()
        assert not target.exists()
    assert names(target) == ["x"]
    with pytest.raises(OSError, match="not empty"), new_folder(target) as folder:
        pass
    assert names(tmp_path / "deep") == ["model"]


def test_a_digest_ignores_the_order_of_keys() -> None:
    assert json_sha256({"a": 1, "b": [2, 3]}) == json_sha256({"b": [2, 3], "a": 1})
    assert json_sha256({"a": 1, "b": [2, 3]}) != json_sha256({"a": 1, "b": [3, 2]})


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 6)), elements=st.floats(-8, 8, width=16)))
def test_rows_have_length_one_or_zero(vectors: np.ndarray) -> None:
    norms = np.linalg.norm(unit(vectors), axis=1)
    zero = ~vectors.any(axis=1)
    np.testing.assert_allclose(norms[~zero], 1.0, atol=1e-3)
    np.testing.assert_array_equal(norms[zero], 0.0)
    assert unit(vectors.astype(np.float64)[:, ::-1]).flags.c_contiguous


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 20)), elements=st.sampled_from([0.0, 0.5, 1.0])),
    st.integers(1, 25),
)
def test_top_k_is_a_stable_sort(scores: np.ndarray, k: int) -> None:
    top, columns = top_k(scores, k)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(top, np.take_along_axis(scores, expected, axis=1))


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 7))
def test_batches_hold_every_row_once_and_lengths_that_rise(lengths: list[int], size: int) -> None:
    batches = list(batches_by_length(lengths, size))
    rows = [row for batch in batches for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    assert all(len(batch) == size for batch in batches[:-1])


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 7), st.integers(1, 40))
def test_a_batch_is_as_large_as_its_budget_allows(lengths: list[int], size: int, budget: int) -> None:
    batches = [batch.tolist() for batch in batches_by_length(lengths, size, budget=budget)]
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    for batch in batches:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
    for batch, following in itertools.pairwise(batches):
        assert len(batch) == size or (len(batch) + 1) * lengths[following[0]] > budget


def test_a_lazy_value_is_made_once_by_many_threads() -> None:
    made: list[int] = []

    def make() -> object:
        time.sleep(0.05)
        made.append(1)
        return object()

    lazy, barrier = Lazy(make), threading.Barrier(8)
    seen: list[object] = []

    def ask() -> None:
        barrier.wait()
        seen.append(lazy())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert len(set(map(id, seen))) == 1


def test_a_lazy_value_that_failed_is_tried_again() -> None:
    answers = [ZeroDivisionError(), "made"]

    def make() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    lazy = Lazy(make)
    with pytest.raises(ZeroDivisionError):
        lazy()
    assert lazy() == lazy() == "made"


def test_a_child_does_not_report_its_parents_memory() -> None:
    """``getrusage`` would: on Linux its maximum is inherited across exec."""
    ballast = np.ones(400_000_000 // 8)
    assert peak_bytes() >= ballast.nbytes
    assert 0 < resident_bytes() <= peak_bytes()
    code = "from llm2clip_search.base.memory import peak_bytes; print(peak_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(child.stdout) < ballast.nbytes


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give memory back by themselves")
def test_freed_memory_between_blocks_in_use_is_given_back() -> None:
    blocks = [bytearray(4000) for _ in range(50_000)]
    blocks = blocks[::1000]  # the last one, among others, keeps glibc from giving back what lies before it
    before = private_bytes()
    return_freed_memory()
    assert private_bytes() < before - 100e6
    assert len(blocks) == 50


_LARGE_BLOCKS = """
from llm2clip_search.base.memory import keep_memory_low, private_bytes
keep_memory_low()
first = bytearray(b"x") * (30 << 20)
del first  # from now on glibc would not map smaller blocks by themselves
large, small = [], []
for _ in range(60):
    large.append(bytearray(b"x") * (2 << 20))
    small.append(bytearray(b"x") * 100_000)
before = private_bytes()
del large
print(before - private_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give memory back by themselves")
def test_a_server_gives_large_blocks_back_at_once() -> None:
    run = subprocess.run([sys.executable, "-c", _LARGE_BLOCKS], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 120e6


def test_giving_memory_back_leaves_nothing_to_the_garbage_collector() -> None:
    return_freed_memory()
    gc.collect()
    return_freed_memory()
    assert gc.collect() == 0
