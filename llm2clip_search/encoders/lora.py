"""Low-rank updates (Hu et al., arXiv 2106.09685) of a caption-tuned LLM.

A model folder holds the update of a linear layer as two tensors, ``<layer>.down`` ``[rank, in]`` and ``<layer>.up``
``[out, rank]``, with the scale folded into ``up``. They are merged when the tower is loaded, so that they cost nothing
per query.
"""

from collections.abc import Mapping

import torch
from torch import nn

from llm2clip_search.errors import ModelError


@torch.no_grad()
def merge_lora(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Add ``up @ down``, computed in float32, to the weight of every named layer.

    Raises:
        ModelError: the module lacks a layer, a pair is incomplete, or shapes do not fit.
    """
    layers = {name.rpartition(".")[0] for name in tensors}
    for layer in sorted(layers):
        down, up = tensors.get(f"{layer}.down"), tensors.get(f"{layer}.up")
        try:
            weight = module.get_parameter(f"{layer}.weight")
        except AttributeError as error:
            raise ModelError(f"There is a low-rank update of {layer}, which the LLM does not have.") from error
        if down is None or up is None:
            raise ModelError(f"The low-rank update of {layer} lacks its {'up' if up is None else 'down'} tensor.")
        if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
            raise ModelError(
                f"The low-rank update of {layer} is {list(up.shape)} times {list(down.shape)},"
                f" but its weight is {list(weight.shape)}."
            )
        weight.add_((up.float() @ down.float()).to(weight))
    if extra := tensors.keys() - {f"{layer}.{part}" for layer in layers for part in ("down", "up")}:
        raise ModelError(f"Unexpected tensors among the low-rank updates: {sorted(extra)[:5]}.")
