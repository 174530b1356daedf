"""Freed memory: with the process where it asked for that, with the kernel otherwise."""

import platform
import subprocess
import sys

import pytest

_TENSOR = 256 << 20
_PROGRAM = f"""
import os, sys
import torch

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

{{prepare}}
torch.zeros(1)
before = resident()
tensor = torch.ones({_TENSOR} // 4)
del tensor
print(resident() - before)
"""
_THROUGH_THE_COMMAND = """
from llm2clip_search.cli.app import app
sys.stdout = sys.stderr
app(["train", "recipes"], standalone_mode=False)
sys.stdout = sys.__stdout__
"""


def _kept(prepare: str) -> int:
    """Bytes that a fresh process holds more after it freed a tensor."""
    program = _PROGRAM.format(prepare=prepare)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_training_process_keeps_what_it_freed() -> None:
    assert _kept("") < 0.1 * _TENSOR
    assert _kept(_THROUGH_THE_COMMAND) > 0.9 * _TENSOR
