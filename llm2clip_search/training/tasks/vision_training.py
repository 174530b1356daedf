"""How much of a vision tower is trained, at which rates, and what need not be computed again.

Towers of timm, open_clip and transformers name their parts alike: numbered blocks, with what comes
before and behind them. Depth is read from those names, so that no family needs code of its own.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from llm2clip_search.errors import ModelError
from llm2clip_search.training.runtime.loop import ParameterGroup
from llm2clip_search.training.runtime.sharding import full_tensor, is_sharded
from llm2clip_search.training.tasks.lora import LoraRecipe, add_lora, merged_lora

_BLOCK = re.compile(r"(?:^|\.)(?:(?:blocks|resblocks|layers|stages)\.|layer)(\d+)\.")
_BEHIND = re.compile(
    r"(^|\.)(conv_head|bn2|norm|fc_norm|ln_post|post_layernorm|attn_pool|head|proj|visual_projection)\b"
)


@dataclass(frozen=True, kw_only=True)
class VisionTraining:
    """Which parameters of the vision tower move."""

    mode: Literal["frozen", "last", "full", "lora"] = "frozen"
    blocks: int = 0
    """With ``last``: this many blocks at the end, and what lies behind them."""
    scale: float = 1.0
    """Of the recipe's learning rate, for the last block."""
    layer_decay: float = 1.0
    """A block's rate, relative to that of the block behind it (LLM2CLIP: 0.85)."""
    lora: LoraRecipe | None = None
    """With ``lora``: the updates of linear layers."""

    def __post_init__(self) -> None:
        if (self.mode == "last") != (self.blocks > 0) or (self.mode == "lora") != (self.lora is not None):
            raise ValueError(f"mode {self.mode!r} does not go with {self.blocks} blocks and lora {self.lora}")


def depth_of(name: str) -> float:
    """Of a parameter: -1 before the blocks, its block's number, infinity behind them.

    >>> depth_of("trunk.blocks.11.attn.qkv.weight"), depth_of("conv_stem.weight"), depth_of("conv_head.weight")
    (11.0, -1.0, inf)
    """
    if match := _BLOCK.search(name):
        return float(match[1])
    return float("inf") if _BEHIND.search(name) and "embed" not in name else -1.0


def mark_trained(backbone: nn.Module, training: VisionTraining, seed: int) -> None:
    """Freeze what stays, and add low-rank updates where asked for.

    Raises:
        ModelError: more blocks asked for than there are.
    """
    backbone.requires_grad_(False)
    if training.lora is not None:
        add_lora(backbone, training.lora, seed)
    elif training.mode != "frozen":
        last = _last_block(backbone)
        if training.blocks > last + 1:
            raise ModelError(
                f"The vision tower has {last + 1:.0f} blocks, but the last {training.blocks} are to be trained."
            )
        first = last + 1 - training.blocks if training.mode == "last" else -1.0
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(depth_of(name) >= first)


def trained_groups(backbone: nn.Module, training: VisionTraining) -> list[ParameterGroup]:
    """What is trained, by depth; what lies behind the last block learns at its rate."""
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
    """The numbered blocks, which sharding gathers one at a time."""
    names = {name[: match.end() - 1] for name, _ in backbone.named_parameters() if (match := _BLOCK.search(name))}
    return [backbone.get_submodule(name) for name in sorted(names)]


def trained_tensors(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """What training changed, by the names of the untouched tower; low-rank updates are merged.

    Every rank must ask. Convolutions' batch statistics stay those of the base weights: towers train in
    evaluation mode.
    """
    return merged_lora(backbone) or {n: full_tensor(p) for n, p in backbone.named_parameters() if p.requires_grad}


def _last_block(backbone: nn.Module) -> float:
    depths = [depth_of(name) for name, _ in backbone.named_parameters()]
    return max((depth for depth in depths if depth != float("inf")), default=-1.0)


class FrozenPrefix(nn.Module):
    """The blocks before the first trained one, and the tower without them.

    What they make of an image never changes, so it can be computed once and kept. That holds for
    towers that are a chain of modules, as convolutional ones are: `split_backbone` checks it on real input.
    """

    def __init__(self, backbone: nn.Module, cut: str) -> None:
        super().__init__()
        self.backbone, self.cut = backbone, cut

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the first trained block is given."""
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
        raise AssertionError(f"{self.cut} is no part of the tower's forward")


class _ReachedError(Exception):
    """The forward got to the cut; what lies behind is not wanted."""


def split_backbone(backbone: nn.Module, sample: torch.Tensor) -> tuple[FrozenPrefix, nn.Module] | None:
    """The tower cut before its first trained block, or None where it is no chain, or lies in pieces.

    Args:
        backbone: with its trained parameters marked, see `mark_trained`.
        sample: what the tower takes, ``[n, 3, H, W]``; both ways must agree on it.
    """
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    match = _BLOCK.search(trained[0]) if trained and depth_of(trained[0]) > 0 else None
    if match is None or any(map(is_sharded, backbone.parameters())):
        return None
    start = FrozenPrefix(backbone, trained[0][: match.end() - 1])
    rest = copy.deepcopy(backbone, {id(p): p for p in backbone.parameters()})  # parameters are shared
    _bypass(rest, start.cut)
    try:
        with torch.no_grad():
            if torch.allclose(rest(start(sample)), backbone(sample), rtol=1e-4, atol=1e-4):
                return start, rest
    except (RuntimeError, AttributeError, TypeError, ValueError, IndexError):
        pass  # position embeddings or class tokens lie between the modules
    return None


def _bypass(module: nn.Module, cut: str) -> None:
    """Replace every module that is defined before ``cut`` by the identity."""
    head, _, below = cut.partition(".")
    for name, child in list(module.named_children()):
        if name == head:
            if below:
                _bypass(child, below)
            return
        setattr(module, name, nn.Identity())
