"""Training of low-rank updates (LoRA; Hu et al., arXiv 2106.09685) with peft.

The trained updates become tensors of a model folder, see `encoders.lora`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.training.runtime.allowed_values import require_values
from llm2clip_search.training.runtime.sharding import full_tensor

LLM_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of a decoder block, by their names in transformers."""


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Which linear layers get low-rank updates, and of which rank."""

    rank: int = 16
    """Rank of the updates."""
    alpha: int = 32
    """Updates are scaled by ``alpha / rank``."""
    dropout: float = 0.0
    """Dropout before the updates."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that are updated; empty for all of the blocks (`LLM_PROJECTIONS` of an LLM)."""

    def __post_init__(self) -> None:
        require_values(
            self,
            {
                "rank": (self.rank >= 1, "at least 1"),
                "alpha": (self.alpha >= 1, "at least 1"),
                "dropout": (0.0 <= self.dropout < 1.0, "at least 0 and less than 1"),
            },
        )


def add_lora(module: nn.Module, recipe: LoraRecipe, seed: int) -> None:
    """Freeze a module and add trainable low-rank updates in place; initially they change nothing."""
    ensure_torchvision()
    import peft

    module.requires_grad_(False)
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets or LLM_PROJECTIONS),
    )
    peft.inject_adapter_in_model(config, module)


def lora_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """``<layer>.down`` and ``<layer>.up`` of every update, float16, with the scale folded in; collective."""
    tensors = {}
    for name, layer in _updated(module):
        down, up = _factors(layer)
        tensors[f"{name}.down"] = down.half().cpu().contiguous()
        tensors[f"{name}.up"] = up.half().cpu().contiguous()
    return tensors


def stacked_lora(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The sum of two sets of updates, as `lora_tensors` returns them; ranks of a layer that both have add up."""
    tensors = dict(first)
    for name, tensor in second.items():
        axis = 0 if name.endswith(".down") else 1
        tensors[name] = torch.cat([first[name], tensor.to(first[name])], dim=axis) if name in first else tensor
    return tensors


def merged_lora(module: nn.Module) -> dict[str, torch.Tensor]:
    """``<layer>.weight`` of every updated layer, with the update merged; collective."""
    tensors = {}
    for name, layer in _updated(module):
        down, up = _factors(layer)
        tensors[f"{name}.weight"] = full_tensor(layer.base_layer.weight) + up @ down
    return tensors


def _updated(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in module.named_modules():
        if "default" in getattr(layer, "lora_A", {}):
            yield name, layer


def _factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors ``[rank, in]`` and ``[out, rank]`` of an update, with the scale folded into the second."""
    down, up = full_tensor(layer.lora_A["default"].weight), full_tensor(layer.lora_B["default"].weight)
    return down, up * layer.scaling["default"]
