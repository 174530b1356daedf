"""Batches that do not fit into memory are halved, and so are all later ones."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from llm2clip_search.encoders.within_memory import WithinMemory, is_out_of_memory
from llm2clip_search.errors import ModelError

Asked = list[int]


def tower_of(fits: int, error: Exception) -> tuple[Callable[[dict[str, np.ndarray]], np.ndarray], Asked]:
    """A tower of one dimension that takes ``fits`` rows at once, and the numbers of rows that it was called with."""
    asked: Asked = []

    def tower(arrays: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(len(arrays["ids"]))
        if asked[-1] > fits:
            raise error
        sums: np.ndarray = arrays["ids"].astype(np.float32) + arrays["mask"]
        return sums

    return tower, asked


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(1, 12))
def test_rows_are_those_of_whole_batches(counts: list[int], fits: int) -> None:
    tower, _ = tower_of(fits, torch.OutOfMemoryError("CUDA out of memory"))
    within = WithinMemory(tower, "text")
    for count in counts:
        arrays = {"ids": np.arange(count)[:, None], "mask": np.ones((count, 1))}
        np.testing.assert_array_equal(within(arrays), np.arange(1, count + 1, dtype=np.float32)[:, None])


def test_what_fits_is_remembered(caplog: pytest.LogCaptureFixture) -> None:
    tower, asked = tower_of(3, torch.OutOfMemoryError("CUDA out of memory"))
    within = WithinMemory(tower, "vision")
    arrays = {"ids": np.zeros((8, 1)), "mask": np.zeros((8, 1))}
    within(arrays)
    assert asked == [8, 4, 2, 2, 2, 2]
    assert "Memory ran out in the vision tower with 8 rows; from now on it gets 4 at once." in caplog.text
    asked.clear()
    within(arrays)
    assert asked == [2, 2, 2, 2]


def test_one_row_that_does_not_fit_is_an_error_of_the_model() -> None:
    """It says nothing about the item, so that an image is not listed as a failure."""
    tower, asked = tower_of(0, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(ModelError, match=r"ran out in the vision tower with one row: CUDA out of memory") as caught:
        WithinMemory(tower, "vision")({"ids": np.zeros((4, 1)), "mask": np.zeros((4, 1))})
    assert asked == [4, 2, 1]
    assert "--device" in caught.value.hint


def test_other_errors_pass() -> None:
    tower, asked = tower_of(0, RuntimeError("a shape is wrong"))
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        WithinMemory(tower, "vision")({"ids": np.zeros((4, 1)), "mask": np.zeros((4, 1))})
    assert asked == [4]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
        Fail("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 4096"),
    ],
    ids=str,
)
def test_libraries_say_in_many_ways_that_memory_ran_out(error: Exception) -> None:
    assert is_out_of_memory(error)
    tower, asked = tower_of(2, error)
    WithinMemory(tower, "vision")({"ids": np.zeros((4, 1)), "mask": np.zeros((4, 1))})
    assert asked == [4, 2, 2]
