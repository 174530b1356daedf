"""The cost of a module: its parameters, and the operations and memory of a forward and a backward pass."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

MEASURE_S = 0.5
"""Seconds that a measurement of speed takes."""


@dataclass(frozen=True, kw_only=True)
class DeviceSpeed:
    """How fast a device multiplies matrices."""

    device: str
    flops: float
    """Floating-point operations per second of a plain matrix product."""


def measure_flops(device: str, *, bf16: bool) -> DeviceSpeed:
    """Measure a device by multiplying square matrices for half a second."""
    side = 1024 if device == "cpu" else 8192
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)

    def multiply(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            product = left @ left
        float(product[0, 0])  # waits for the device
        return time.perf_counter() - began

    multiply(1)
    times = max(1, int(MEASURE_S / multiply(1)))
    return DeviceSpeed(device=device, flops=times * 2 * side**3 / multiply(times))


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Number of parameters, and how many of them are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one forward pass and, if anything is trained, of its backward pass."""

    forward: int
    """Floating-point operations; a multiply-add counts as two."""
    backward: int
    """Likewise; 0 if nothing is trained."""
    activation_bytes: int
    """Bytes that the forward pass keeps for the backward pass, without parameters."""
    width: int
    """Width of the output rows."""


def cost_of(module: nn.Module, run: Callable[[], torch.Tensor]) -> Cost:
    """Count operations and activations, kernel by kernel, while ``run`` calls the module and backward follows.

    Attention is counted as plain matrix products that keep their scores; fused kernels keep less.
    """
    own = {_storage(p) for p in (*module.parameters(), *module.buffers())}
    held: dict[int, torch.Tensor] = {}  # holds the tensors, so that no storage is freed and its address reused

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in own:
            held.setdefault(_storage(tensor), tensor)
        return tensor

    backward = {torch.ops.aten.convolution_backward: _convolution_backward}
    with (
        FlopCounterMode(display=False, custom_mapping=backward) as counter,
        saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        out = run()
        forward = counter.get_total_flops()
        if out.requires_grad:
            out.float().sum().backward()  # type: ignore[no-untyped-call]
        total = counter.get_total_flops()
    module.zero_grad()
    return Cost(
        forward=forward,
        backward=total - forward,
        activation_bytes=sum(tensor.untyped_storage().nbytes() for tensor in held.values()),
        width=out.shape[-1],
    )


def _convolution_backward(gradient: torch.Size, inputs: torch.Size, weight: torch.Size, *rest: Any, **out: Any) -> int:
    """Each of the two gradients costs as much as the forward pass; torch's own count ignores ``groups``."""
    wanted = rest[-1]
    return (bool(wanted[0]) + bool(wanted[1])) * 2 * gradient.numel() * weight[1:].numel()


def _storage(tensor: torch.Tensor) -> int:
    storage: Any = tensor.untyped_storage()
    return int(storage._cdata)
