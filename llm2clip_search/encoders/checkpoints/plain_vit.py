"""Plain vision transformers of the training repository, OpenAI's among them: from its names to timm's and back."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch

from llm2clip_search.encoders.checkpoints.layouts import VisionPart, check_keys, need, openai_pixels, shapes_of
from llm2clip_search.encoders.checkpoints.timm_size import TowerSize
from llm2clip_search.encoders.config import VisionConfig
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError

Activation = Literal["quick_gelu", "gelu"]

PREFIX = "visual."
ARCHITECTURES: dict[Activation, dict[TowerSize, str]] = {
    "quick_gelu": {
        TowerSize(768, 12, 16, 224): "vit_base_patch16_clip_quickgelu_224",
        TowerSize(1024, 24, 14, 224): "vit_large_patch14_clip_quickgelu_224",
        TowerSize(1024, 24, 14, 336): "vit_large_patch14_clip_quickgelu_336",
    },
    "gelu": {
        TowerSize(768, 12, 16, 224): "vit_base_patch16_clip_224",
        TowerSize(1024, 24, 14, 224): "vit_large_patch14_clip_224",
        TowerSize(1024, 24, 14, 336): "vit_large_patch14_clip_336",
    },
}
"""timm's names of the repository's configurations. Another size is the first one's architecture with options."""

_NAMES = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1.": "patch_embed.proj.",
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
}
_IN_BLOCK = {
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_TIMMS_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_LEADING_AXES = {"cls_token": 2, "pos_embed": 1}
"""Number of axes of length 1 that timm's tensors have before the repository's."""
_HEAD_WIDTH = 64
"""Width of an attention head, the default of the repository's configurations."""


def convert_plain_vit(tensors: Mapping[str, torch.Tensor], activation: Activation | None) -> VisionPart:
    """Convert the vision tower of a checkpoint of layout ``vit``; its ``proj`` becomes the projection.

    Args:
        activation: that of the MLPs, which no key shows: ``quick_gelu`` in towers that began as OpenAI's
            (``--pretrained openai``), ``gelu`` otherwise. None takes ``quick_gelu``, with a note.

    Raises:
        ModelError: keys are missing or unexpected.
    """
    tower = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    projection = need(tower, "proj").T.contiguous()
    found = {}
    for name, tensor in tower.items():
        if name != "proj":
            ours = _renamed(name, _BLOCK, "blocks.", _NAMES, _IN_BLOCK)
            found[ours] = tensor.reshape(*[1] * _LEADING_AXES.get(ours, 0), *tensor.shape)
    size = TowerSize.of(found, class_tokens=1)
    taken: Activation = activation or "quick_gelu"
    known = ARCHITECTURES[taken]
    inner = need(found, "blocks.0.mlp.fc1.weight").shape[0]
    options = {} if size in known else size.options(inner=inner, head_width=_HEAD_WIDTH)
    architecture = known.get(size) or next(iter(known.values()))
    check_keys(f"vision tower {PREFIX}* (as timm's {architecture})", _shapes(architecture, options), found)
    if projection.shape[1] != size.width:
        raise ModelError(f"{PREFIX}proj has {projection.shape[1]} input dimensions, but the tower has {size.width}.")
    return VisionPart(
        config=VisionConfig(
            library="timm",
            architecture=architecture,
            weights=None,
            projection=True,
            options=options,
            preprocess=openai_pixels(size.side),
        ),
        dim=projection.shape[0],
        tensors={f"backbone.{name}": t for name, t in found.items()} | {"projection.weight": projection},
        used=frozenset(name for name in tensors if name.startswith(PREFIX)),
        notes=()
        if activation
        else (
            "The checkpoint does not show its activation; quick_gelu was taken, that of towers which began as OpenAI's."
            " One trained with GELU has to be converted with that activation.",
        ),
    )


def plain_vit_to_checkpoint(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a vision tower's ``backbone.*`` and ``projection.weight``; the inverse of `convert_plain_vit`.

    Raises:
        ModelError: its projection has a bias, for which the layout has no name.
    """
    if "projection.bias" in tensors:
        raise ModelError("The vision tower's projection has a bias, which a plain ViT of the layout cannot hold.")
    names, in_block = ({ours: theirs for theirs, ours in table.items()} for table in (_NAMES, _IN_BLOCK))
    published = {f"{PREFIX}proj": tensors["projection.weight"].T.contiguous()}
    for name, tensor in tensors.items():
        if name.startswith("backbone."):
            ours = name.removeprefix("backbone.")
            theirs = _renamed(ours, _TIMMS_BLOCK, "transformer.resblocks.", names, in_block)
            published[PREFIX + theirs] = tensor.reshape(tensor.shape[_LEADING_AXES.get(ours, 0) :])
    return published


def _renamed(
    name: str, block: re.Pattern[str], blocks: str, names: Mapping[str, str], in_block: Mapping[str, str]
) -> str:
    """A key with its first part replaced, inside a block or outside; an unknown one is kept, so that it is listed."""
    match = block.fullmatch(name)
    start, rest, table = (f"{blocks}{match[1]}.", match[2], in_block) if match else ("", name, names)
    old = next((old for old in table if rest.startswith(old)), "")
    return f"{start}{table.get(old, '')}{rest.removeprefix(old)}"


def _shapes(architecture: str, options: Mapping[str, Any]) -> dict[str, torch.Size]:
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        return shapes_of(timm.create_model(architecture, pretrained=False, num_classes=0, **options))
