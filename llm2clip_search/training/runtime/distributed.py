"""One process or several started by torchrun, with sums and gathers between them.

Every rank draws the whole batch of a step and takes its slice. The loss is computed over the gathered batch, so
N ranks compute what one rank computes with the whole batch.
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
"""Whether every rank holds all parameters of a tower or a shard of each; see `sharding.distribute_module`."""


@dataclass(frozen=True)
class World:
    """The process group, as this process sees it."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    sharding: Sharding = "replicate"
    on_machine: int = 1
    """Processes on this machine, which share its cores."""

    @property
    def threads(self) -> int:
        """Threads of this process that decode images: its share of the cores."""
        return max(1, (os.cpu_count() or 1) // self.on_machine)

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes files and logs."""
        return self.rank == 0

    def slice(self, count: int) -> slice:
        """This rank's slice of ``count`` rows; the slices' lengths differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def num_micro_batches(self, *counts: int, size: int) -> int:
        """Number of micro-batches of ``size`` rows for this rank's slices of ``counts`` rows, taken together.

        It is the same on every rank, because the forward of a sharded tower gathers parameters from all of them.
        Where slices differ by a row, a micro-batch may hold one row per slice more than ``size``.

        Raises:
            ModelError: some rank would get no rows.
        """
        shortest = sum(count // self.size for count in counts)
        if shortest == 0:
            raise ModelError(
                f"A batch of {max(counts)} cannot be shared by {self.size} processes;"
                " raise the recipe's batch_size or start fewer."
            )
        return -(-shortest // size)

    def gather(self, vectors: torch.Tensor, count: int) -> torch.Tensor:
        """Rows of all ranks in rank order, ``[count, dim]``; gradients flow back to every rank."""
        if self.size == 1:
            return vectors
        longest = -(-count // self.size)
        padded = nn.functional.pad(vectors, (0, 0, 0, longest - len(vectors)))
        slices = [World(rank, self.size).slice(count) for rank in range(self.size)]
        parts = _Gather.apply(padded, self)  # type: ignore[no-untyped-call]
        return torch.cat([part[: own.stop - own.start] for part, own in zip(parts, slices, strict=True)])

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum every gradient over the ranks; `_Gather` explains why the sum and not the mean is right.

        A parameter without a gradient on all ranks keeps none, so the optimiser skips it as it does on one rank.
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

    def broadcast(self, figures: dict[str, float]) -> dict[str, float]:
        """Rank 0's figures, so that all ranks take the same decisions."""
        if self.size == 1:
            return figures
        objects = [figures]
        dist.broadcast_object_list(objects, src=0)
        return objects[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """All-gather whose backward returns to each rank the gradient of its own rows.

    Every rank computes the same loss over the same gathered rows, so the gradient of its own rows is already
    complete. The gradients of parameters are then summed over the ranks, each contributing its own rows.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, world: World) -> tuple[torch.Tensor, ...]:
        ctx.rank = world.rank
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world.size)]
        dist.all_gather(parts, rows.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[ctx.rank], None


def join_process_group(device: str = "auto", sharding: Sharding = "replicate") -> World:
    """Join the process group that torchrun started, if any: NCCL on GPUs, gloo on CPUs.

    Args:
        device: ``auto`` is CUDA if available, else the CPU; ``cuda`` is the GPU of this process's local rank.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return World(rank, size, device, sharding, on_machine=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
