"""Mapped files: the same bytes as read, without a descriptor."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from llm2clip_search.base.mapping import FileRows, map_array, map_file, open_rows

DESCRIPTORS = Path("/proc/self/fd")
on_linux = pytest.mark.skipif(not DESCRIPTORS.exists(), reason="counts descriptors in /proc")


@given(st.binary(max_size=10_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_mapped_file_is_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert map_file(path).tobytes() == content


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
def test_a_mapped_array_is_the_array(tmp_path: Path, dtype: str) -> None:
    saved = np.arange(600).reshape(60, 10).astype(dtype)
    np.save(tmp_path / "a.npy", saved)
    mapped = map_array(tmp_path / "a.npy")
    assert mapped.dtype == saved.dtype
    assert (mapped == saved).all()
    assert not mapped.flags.writeable
    assert mapped.flags.c_contiguous


@on_linux
def test_no_descriptor_is_kept_and_memory_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(100_000))
    before = len(list(DESCRIPTORS.iterdir()))
    held = [map_array(path) for _ in range(50)]
    assert len(list(DESCRIPTORS.iterdir())) == before
    assert Path("/proc/self/maps").read_text().count(str(path)) == 50
    part = held[0][10:20]
    del held
    gc.collect()
    assert Path("/proc/self/maps").read_text().count(str(path)) == 1, "a view keeps its mapping"
    assert part.tolist() == [0.0] * 10
    del part
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_mapping_leaves_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    """Python may look for cycles hardly ever, and a server maps files of other sizes after every commit."""
    path = tmp_path / "file"
    path.write_bytes(bytes(4321))
    map_file(path)  # loads the C library
    gc.collect()
    gc.disable()
    try:
        path.write_bytes(bytes(1234))
        map_file(path)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_what_is_mapped_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"kept")
    mapped = map_file(path)
    if os.name != "nt":
        path.unlink()
    assert mapped.tobytes() == b"kept"


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(FileNotFoundError):
        map_array(path)
    np.save(path, np.zeros((100, 10)))
    whole = path.read_bytes()
    for damaged, why in (
        (b"", "EOF"),
        (whole[:5], "EOF"),
        (b"x" * 200, "magic string"),
        (whole[:-1], "8,127 bytes, but its header asks for 8,128"),
        (whole.replace(b"'fortran_order': False", b"'fortran_order': True "), "C order"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=why):
            map_array(path)


@given(
    saved=arrays(st.sampled_from([np.float16, np.float32, np.int64]), array_shapes(min_dims=2, max_dims=2, min_side=1)),
    shape=array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    seed=st.integers(0, 1000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_of_a_file_are_those_of_its_array(
    tmp_path: Path, saved: np.ndarray, shape: tuple[int, ...], seed: int
) -> None:
    np.save(tmp_path / "a.npy", saved)
    rows = np.asarray(np.random.default_rng(seed).integers(0, len(saved), shape))
    found = open_rows(tmp_path / "a.npy")[rows]
    assert (found.dtype, found.shape) == (saved.dtype, (*shape, saved.shape[1]))
    np.testing.assert_array_equal(found, saved[rows])


@on_linux
def test_rows_that_are_not_there_and_files_that_change(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(10))
    with pytest.raises(ValueError, match="1 dimensions"):
        FileRows(path)
    np.save(path, np.arange(40.0).reshape(20, 2))
    before = len(list(DESCRIPTORS.iterdir()))
    rows = FileRows(path)
    for absent in (-1, 20):
        with pytest.raises(IndexError, match=f"row {absent}"):
            _ = rows[np.array([absent])]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8)
    assert rows[np.array([18])].tolist() == [[36.0, 37.0]]
    with pytest.raises(OSError, match="Input/output error"):
        _ = rows[np.array([19])]
    path.unlink()
    assert rows[np.array([[0], [1]])].tolist() == [[[0.0, 1.0]], [[2.0, 3.0]]]
    del rows
    assert len(list(DESCRIPTORS.iterdir())) == before
