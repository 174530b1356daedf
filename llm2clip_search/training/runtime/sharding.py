"""Where a tower's parameters live: whole on every rank, or a piece on each (FSDP2, Zhao et al., arXiv 2304.11277).

A sharded parameter is a `DTensor`. Only this module knows; everything else asks for the piece that is
here, or for the whole, which all ranks must then ask for together.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from llm2clip_search.training.runtime.distributed import Ranks


def place(module: nn.Module, blocks: Iterable[nn.Module], ranks: Ranks) -> None:
    """Move a tower to this rank's device: the whole of it, or a piece of every parameter, frozen ones included.

    Pieces become parameters while a block runs, and calling the module is where that happens: no other
    method may touch parameters of ``module`` itself. All ranks call it equally often, see `Ranks.parts`,
    and without gradients under ``torch.no_grad()``: what ``inference_mode`` gathers can't be trained with
    later. Sharding replaces the parameters, so references to them are taken afterwards.

    Args:
        blocks: modules within ``module`` that are gathered one at a time; memory peaks at the largest.
    """
    if ranks.size == 1 or ranks.sharding == "replicate":
        module.to(ranks.device)
        return
    for parameter in module.parameters():  # pieces are runs of rows, which channels-last weights are not
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(ranks.device.partition(":")[0], (ranks.size,))
    for part in (*blocks, module):
        # Pieces again after every forward, the outermost too: weights may change between two of them, as
        # they do around an evaluation of the moving average.
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        # Gradients are summed, as `Ranks.sum_gradients` does; gloo has no other reduction.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether only a piece of it is here."""
    return isinstance(tensor, DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What is here of a tensor, in its own memory: changing it changes the tensor."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor; every rank must ask."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def joined(piece: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """All of what the ranks hold as pieces that are cut as those of ``like``; every rank must ask."""
    piece = piece.to(like.device)
    if not isinstance(like, DTensor):
        return piece
    whole: torch.Tensor = DTensor.from_local(
        piece, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()
    return whole


def cut(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor that all ranks hold, as ``like`` is held: on its device, and in pieces if it is."""
    whole = whole.to(like.device)
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
