"""Mixed precision: matrix products in bfloat16, weights in float32, where a measurement finds that this is quicker."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

StepKind = Literal["matrix products", "convolutions"]
"""What the time of a tower's training step goes into."""
SAVING = 0.1
"""Share of the time that bfloat16 has to save, because it rounds to 8 bits."""
_ROUNDS = 5


def autocast(device: str, bf16: bool) -> AbstractContextManager[Any]:
    """A context that computes products in bfloat16 if ``bf16`` is set; weights and optimiser stay in float32.

    CPUs that only emulate bfloat16 keep float32: it takes them half the time.
    """
    kind = device.partition(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16) if bf16 and multiplies_bf16(kind) else nullcontext()


def multiplies_bf16(kind: str) -> bool:
    """Whether a kind of device has instructions for products in bfloat16."""
    if kind != "cpu":
        return True
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16") or found.get("bf16"))


@dataclass(frozen=True, kw_only=True)
class PrecisionTimes:
    """How long a small training step takes in both precisions."""

    kind: StepKind
    device: str
    float32: float
    """Seconds."""
    bf16: float
    """Seconds, in mixed precision."""

    @property
    def prefers_bf16(self) -> bool:
        """Whether bfloat16 saves more than `SAVING`."""
        return self.bf16 < (1.0 - SAVING) * self.float32

    def __str__(self) -> str:
        times = f"{1000 * self.float32:.1f} ms in float32 and {1000 * self.bf16:.1f} ms in bfloat16"
        return f"a small training step of {self.kind} takes {times} ({self.device})"


Step = Callable[[], None]
Timing = Callable[[Step, Step], tuple[float, float]]
"""Takes two steps and returns how many seconds each takes."""


def quickest_in_turns(first: Step, second: Step, clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """Seconds of the quickest of a few calls of each, in turns, so that other programs disturb both alike."""
    best = [math.inf, math.inf]
    for number in range(_ROUNDS + 1):
        for which, step in enumerate((first, second)):
            began = clock()
            step()
            if number:  # the first round warms up
                best[which] = min(best[which], clock() - began)
    return best[0], best[1]


def quickest_on_one_core(first: Step, second: Step) -> tuple[float, float]:
    """Seconds of processor time on one core, which other programs change least."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return quickest_in_turns(first, second, time.thread_time)
    finally:
        torch.set_num_threads(threads)


def compare_precisions(device: str, kind: StepKind, timing: Timing | None = None) -> PrecisionTimes:
    """Measure a forward and a backward pass in float32 and in mixed precision: well under a second on a CPU.

    Args:
        timing: measures the two steps; by default, on one core of a CPU, and in turns elsewhere.
    """
    size = 1 if device == "cpu" else 8
    block, x = _BLOCKS[kind](size)
    block, x = block.to(device), x.to(device)

    def step(bf16: bool) -> None:
        with autocast(device, bf16):
            out = block(x)
        out.float().sum().backward()
        sum(float(p.grad.flatten()[0]) for p in block.parameters() if p.grad is not None)  # waits for the device
        block.zero_grad()

    timing = timing or (quickest_on_one_core if device == "cpu" else quickest_in_turns)
    float32, bf16 = timing(lambda: step(False), lambda: step(True))
    return PrecisionTimes(kind=kind, device=device, float32=float32, bf16=bf16)


def _products(size: int) -> tuple[nn.Module, torch.Tensor]:
    """The feed-forward layers of a transformer, and 64 tokens or more."""
    width = 384 * size
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)), torch.ones(64, width)


def _convolutions(size: int) -> tuple[nn.Module, torch.Tensor]:
    """An inverted residual block as of EfficientNet, and four feature maps or more in the memory format of training.

    The depthwise convolution is 5 x 5, as half of EfficientNet's are: where bfloat16 is quicker for one of 3 x 3, it
    may still be slower for the whole tower.
    """
    width, inner = 64, 384
    block = nn.Sequential(
        nn.Conv2d(width, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU6(),
        nn.Conv2d(inner, inner, 5, padding=2, groups=inner, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU6(),
        nn.Conv2d(inner, width, 1, bias=False),
        nn.BatchNorm2d(width),
    )
    return block.eval(), torch.ones(4 * size * size, width, 20, 20).contiguous(memory_format=torch.channels_last)


_BLOCKS: dict[StepKind, Callable[[int], tuple[nn.Module, torch.Tensor]]] = {
    "matrix products": _products,
    "convolutions": _convolutions,
}
