"""One process or many: what torchrun started, and sums and gathers between the ranks.

A step's batch is drawn as a whole on every rank and each rank takes its slice. The loss is over
the gathered batch, so that N ranks compute what one rank with the whole batch computes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from llm2clip_search.errors import ModelError

Sharding = Literal["replicate", "shard"]
"""Whether every rank holds all of a tower's parameters or a piece of each; see `sharding.place`."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    sharding: Sharding = "replicate"

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and talks."""
        return self.rank == 0

    def slice(self, count: int) -> slice:
        """This rank's part of ``count`` rows; sizes differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def parts(self, *counts: int, size: int) -> int:
        """Micro-batches of ``size`` that this rank's slices of ``counts`` rows go through together.

        The same on every rank, as sharded towers demand, whose forwards gather parameters from all of
        them; where slices differ by a row, a micro-batch may hold one row a slice more than ``size``.

        Raises:
            ModelError: a rank would be left without rows.
        """
        shortest = sum(count // self.size for count in counts)
        if shortest == 0:
            raise ModelError(
                f"A batch of {max(counts)} cannot be shared by {self.size} processes;"
                " raise the recipe's batch_size or start fewer."
            )
        return -(-shortest // size)

    def gather(self, vectors: torch.Tensor, count: int) -> torch.Tensor:
        """Rows of all ranks in rank order, ``[count, dim]``; gradients flow to all of them."""
        if self.size == 1:
            return vectors
        longest = -(-count // self.size)
        padded = nn.functional.pad(vectors, (0, 0, 0, longest - len(vectors)))
        slices = [Ranks(rank, self.size).slice(count) for rank in range(self.size)]
        parts = _Gather.apply(padded, self)  # type: ignore[no-untyped-call]
        return torch.cat([part[: own.stop - own.start] for part, own in zip(parts, slices, strict=True)])

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum every gradient over the ranks; see `_Gather` for why the sum, not the mean, is right.

        A parameter that no rank's rows touched keeps no gradient, so that the optimiser skips it as it
        does on one rank.
        """
        if self.size == 1 or not parameters:
            return
        touched = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=self.device)
        dist.all_reduce(touched, dist.ReduceOp.MAX)
        summed = [p for p, is_touched in zip(parameters, touched.tolist(), strict=True) if is_touched]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in summed]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        start = 0
        for parameter, gradient in zip(summed, gradients, strict=True):
            parameter.grad = gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def agreed(self, figures: dict[str, float]) -> dict[str, float]:
        """The leading rank's figures, so that what is decided by them is decided alike everywhere."""
        if self.size == 1:
            return figures
        said = [figures]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """All-gather whose backward hands each rank the gradient of its own rows.

    Every rank computes the same loss over the same gathered rows, so that the gradient of its rows is
    complete as it is; parameters' gradients are then summed over the ranks, each from its own rows.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, ranks: Ranks) -> tuple[torch.Tensor, ...]:
        ctx.rank = ranks.rank
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(ranks.size)]
        dist.all_gather(parts, rows.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[ctx.rank], None


def join(device: str = "auto", sharding: Sharding = "replicate") -> Ranks:
    """Join the group that torchrun started, if it did: NCCL on GPUs, gloo on CPUs."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Ranks(rank, size, device, sharding)
