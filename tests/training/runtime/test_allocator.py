"""Freed memory stays with a training process, and goes back to the kernel otherwise."""

import platform
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from llm2clip_search.base.memory import resident_bytes
from tests.support.commands import run_in_process
from tests.support.toy_training import FORKS, start

_TENSOR = 256 << 20


def _free_a_tensor(connection: Connection, train: bool) -> None:
    """Send how many bytes more are resident after a tensor was freed than before it was made."""
    if train:
        assert run_in_process("train", "recipes", cwd=Path.cwd()).returncode == 0
    torch.zeros(1)
    before = resident_bytes()
    tensor = torch.ones(_TENSOR // 4)
    del tensor
    connection.send(resident_bytes() - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_a_training_process_keeps_what_it_freed() -> None:
    kept = []
    for train in (False, True):
        ours, theirs = FORKS.Pipe()
        process = start(_free_a_tensor, theirs, train)
        process.join()
        assert process.exitcode == 0
        kept.append(ours.recv())
    assert kept[0] < 0.1 * _TENSOR
    assert kept[1] > 0.9 * _TENSOR
