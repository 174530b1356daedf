"""Mixed precision: matrix products in bfloat16, weights in float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast(device: str, bf16: bool) -> AbstractContextManager[Any]:
    """A context that computes products in bfloat16 if ``bf16`` is set; weights and optimiser stay in float32."""
    kind = device.partition(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16) if bf16 else nullcontext()
