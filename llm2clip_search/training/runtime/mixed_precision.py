"""Mixed precision: matrix products in bfloat16, weights in float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


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
