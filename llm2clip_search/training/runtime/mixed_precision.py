"""Products in bfloat16 over float32 weights."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast(device: str, bf16: bool) -> AbstractContextManager[Any]:
    """bfloat16 products where asked for; weights and optimiser stay in float32."""
    kind = device.partition(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16) if bf16 else nullcontext()
