"""Which parameters of a vision tower are trained, at which rates, and which blocks stay frozen.

Towers of timm, open_clip and transformers name their modules alike: numbered blocks, and modules before and after
them. Depth is read from these names, so no family of towers needs its own code.
"""

import copy
import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from llm2clip_search.errors import ModelError
from llm2clip_search.training.runtime.allowed_values import require_values
from llm2clip_search.training.runtime.parameter_groups import ParameterGroup
from llm2clip_search.training.runtime.sharding import full_tensor, is_sharded
from llm2clip_search.training.tasks.lora import LoraRecipe, add_lora, merged_lora

_BLOCK = re.compile(r"(?:^|\.)(?:(?:blocks|resblocks|layers|stages)\.|layer)(\d+)\.")
_AFTER_BLOCKS = re.compile(
    r"(^|\.)(conv_head|bn2|norm|fc_norm|ln_post|post_layernorm|attn_pool|head|proj|visual_projection)\b"
)


@dataclass(frozen=True, kw_only=True)
class VisionTraining:
    """Which parameters of the vision tower are trained."""

    mode: Literal["frozen", "last", "full", "lora"] = "frozen"
    """None of it, its last blocks, all of it, or low-rank updates."""
    blocks: int = 0
    """For ``last``: number of blocks at the end that are trained, with the modules after them. Other modes ignore
    it."""
    scale: float = 1.0
    """Factor on the recipe's learning rate for the last block."""
    layer_decay: float = 1.0
    """Learning rate of a block relative to that of the next block (LLM2CLIP: 0.85)."""
    lora: LoraRecipe | None = None
    """For ``lora``: the low-rank updates of linear layers, `LoraRecipe()` by default; other modes ignore it."""

    def __post_init__(self) -> None:
        if self.mode == "last" and self.blocks < 1:
            raise ValueError(f"mode 'last' needs blocks = 1 or more, not {self.blocks}")
        require_values(
            self,
            {
                "blocks": (self.blocks >= 0, "at least 0"),
                "scale": (0.0 < self.scale < math.inf, "greater than 0"),
                "layer_decay": (0.0 < self.layer_decay <= 1.0, "greater than 0 and at most 1"),
            },
        )


def depth_of(name: str) -> float:
    """Depth of a parameter: the number of its block, -1 before the blocks, infinity after them.

    >>> depth_of("trunk.blocks.11.attn.qkv.weight"), depth_of("conv_stem.weight"), depth_of("conv_head.weight")
    (11.0, -1.0, inf)
    """
    if match := _BLOCK.search(name):
        return float(match[1])
    return float("inf") if _AFTER_BLOCKS.search(name) and "embed" not in name else -1.0


def mark_trained(backbone: nn.Module, training: VisionTraining, seed: int) -> None:
    """Set which parameters are trained and freeze the others; add low-rank updates for mode ``lora``.

    Raises:
        ModelError: the tower has fewer blocks than are to be trained, or no linear layers for low-rank updates.
    """
    backbone.requires_grad_(False)
    if training.mode == "lora":
        recipe = training.lora or LoraRecipe()
        add_lora(backbone, replace(recipe, targets=_linear_layers(backbone, recipe.targets)), seed)
    elif training.mode != "frozen":
        last = _last_block(backbone)
        if training.mode == "last" and training.blocks > last + 1:
            raise ModelError(
                f"The vision tower has {last + 1:.0f} blocks, but the last {training.blocks} are to be trained."
            )
        first = last + 1 - training.blocks if training.mode == "last" else -1.0
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(depth_of(name) >= first)


def trained_groups(backbone: nn.Module, training: VisionTraining) -> list[ParameterGroup]:
    """Parameter groups by depth; modules after the last block have its learning rate."""
    last = _last_block(backbone)
    groups: dict[float, dict[str, nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(min(depth_of(name), last), {})[f"backbone.{name}"] = parameter
    return [
        ParameterGroup(parameters=parameters, scale=training.scale * training.layer_decay ** (last - depth))
        for depth, parameters in sorted(groups.items())
    ]


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """The numbered blocks of a tower, which sharding gathers one at a time."""
    names = {name[: match.end() - 1] for name, _ in backbone.named_parameters() if (match := _BLOCK.search(name))}
    return [backbone.get_submodule(name) for name in sorted(names)]


def trained_tensors(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Trained tensors by the original tower's names, low-rank updates merged; collective.

    Batch normalisation keeps the statistics of the base weights, because towers train in evaluation mode.
    """
    return merged_lora(backbone) or {n: full_tensor(p) for n, p in backbone.named_parameters() if p.requires_grad}


def _linear_layers(backbone: nn.Module, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Full names of the linear layers of the numbered blocks, or of those with one of the names ``targets``."""
    # Subclasses are left out: the output projection of nn.MultiheadAttention is one, and is never called as a module.
    linear = [
        name for name, module in backbone.named_modules() if type(module) is nn.Linear and _BLOCK.search(f"{name}.")
    ]
    if not linear:
        raise ModelError(
            "The vision tower has no linear layers in its blocks, which mode 'lora' needs; use mode 'last' instead."
        )
    named = [name for name in linear if not targets or any(f".{name}".endswith(f".{each}") for each in targets)]
    if not named:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise ModelError(
            f"No linear layer in the blocks of the vision tower is named {' or '.join(targets)}; there are"
            f" {', '.join(known)}."
        )
    return tuple(named)


def _last_block(backbone: nn.Module) -> float:
    depths = [depth_of(name) for name, _ in backbone.named_parameters()]
    return max((depth for depth in depths if depth != float("inf")), default=-1.0)


class FrozenPrefix(nn.Module):
    """The modules before the first trained block of a tower.

    Their outputs for an image never change, so they can be cached. This needs a tower that is a chain of modules, as
    convolutional towers are; `split_backbone` checks it on real input.
    """

    def __init__(self, backbone: nn.Module, cut: str) -> None:
        super().__init__()
        self.backbone, self.cut = backbone, cut

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The input of the first trained block."""
        found: list[torch.Tensor] = []

        def stop(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            found.append(inputs[0])
            raise _ReachedError

        handle = self.backbone.get_submodule(self.cut).register_forward_pre_hook(stop)
        try:
            self.backbone(pixels)
        except _ReachedError:
            return found[0]
        finally:
            handle.remove()
        raise AssertionError(f"the tower's forward does not call {self.cut}")


class _ReachedError(Exception):
    """Ends a forward pass at the cut."""


def split_backbone(backbone: nn.Module, sample: torch.Tensor) -> tuple[FrozenPrefix, nn.Module] | None:
    """Split a tower before its first trained block; None if it is not a chain of modules, or is sharded.

    Args:
        backbone: a tower whose trained parameters are marked, see `mark_trained`.
        sample: input ``[n, 3, H, W]``, for which the split tower must return the same features.

    Returns:
        The frozen prefix, and the rest of the tower, which shares its parameters with ``backbone``.
    """
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    match = _BLOCK.search(trained[0]) if trained and depth_of(trained[0]) > 0 else None
    if match is None or any(map(is_sharded, backbone.parameters())):
        return None
    start = FrozenPrefix(backbone, trained[0][: match.end() - 1])
    rest = copy.deepcopy(backbone, {id(p): p for p in backbone.parameters()})  # shares the parameters
    _bypass(rest, start.cut)
    try:
        with torch.no_grad():
            if torch.allclose(rest(start(sample)), backbone(sample), rtol=1e-4, atol=1e-4):
                return start, rest
    except (RuntimeError, AttributeError, TypeError, ValueError, IndexError):
        pass  # something, such as position embeddings, is added between the modules
    return None


def _bypass(module: nn.Module, cut: str) -> None:
    """Replace all modules defined before ``cut`` by the identity."""
    head, _, below = cut.partition(".")
    for name, child in list(module.named_children()):
        if name == head:
            if below:
                _bypass(child, below)
            return
        setattr(module, name, nn.Identity())
