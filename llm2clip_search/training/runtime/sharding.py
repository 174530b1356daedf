"""Replicated and sharded towers: all parameters on every rank, or a shard of each.

Sharding is FSDP2 (Zhao et al., arXiv 2304.11277). A sharded parameter is a `DTensor`. Only this module
knows that; the rest of the code asks for the local shard or for the full tensor. Functions that return full tensors
are collective: every rank has to call them.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from llm2clip_search.training.runtime.distributed import World


def distribute_module(module: nn.Module, blocks: Iterable[nn.Module], world: World) -> None:
    """Move a module to this rank's device, in full or as a shard of every parameter, frozen ones included.

    FSDP gathers the parameters of a block while its forward runs, so use them only by calling ``module``: no other
    method may touch them. All ranks have to call it equally often, see `World.num_micro_batches`. For inference
    use ``torch.no_grad()``: parameters gathered under ``inference_mode`` cannot be trained afterwards. Sharding
    replaces the parameter objects, so take references to them after this call.

    Args:
        blocks: submodules of ``module`` that are gathered one at a time; peak memory is that of the largest.
    """
    if world.size == 1 or world.sharding == "replicate":
        module.to(world.device)
        return
    for parameter in module.parameters():  # shards are runs of rows, which channels-last weights do not have
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(world.device.partition(":")[0], (world.size,))
    for part in (*blocks, module):
        # The root reshards after forward too: weights may change between two forwards, as they do around an
        # evaluation of the moving average.
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        # Gradients are summed, as in `World.sum_gradients`; gloo supports no other reduction.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this rank holds only a shard of the tensor."""
    return isinstance(tensor, DTensor)


def local_shard(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this rank holds; it shares memory, so changing it changes the tensor."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor; collective."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def gather_shards(shard: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The full tensor of which every rank holds a shard laid out as that of ``like``; collective."""
    shard = shard.to(like.device)
    if not isinstance(like, DTensor):
        return shard
    full: torch.Tensor = DTensor.from_local(
        shard, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()
    return full


def shard_like(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor that all ranks hold in full, moved to the device of ``like`` and sharded if ``like`` is."""
    full = full.to(like.device)
    if not isinstance(like, DTensor):
        return full
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
