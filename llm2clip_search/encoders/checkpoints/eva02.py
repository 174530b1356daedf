"""EVA02 vision towers (RoPE, SwiGLU, sub-LayerNorm): from the training repository's names to timm's and back."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from llm2clip_search.encoders.checkpoints.layouts import (
    VisionPart,
    check_keys,
    count_blocks,
    need,
    openai_pixels,
    shapes_of,
    side_of,
)
from llm2clip_search.encoders.config import VisionConfig
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError

PREFIX = "visual."
ROPE_BUFFER = re.compile(r"(?:blocks\.\d+\.attn\.)?rope\.freqs_(?P<part>cos|sin)")
"""Rotary angles; they are compared with those that timm computes, and not copied."""

_PUBLISHED_TO_TIMM = (
    (".attn.inner_attn_ln.", ".attn.norm."),
    (".mlp.ffn_ln.", ".mlp.norm."),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
)
_LONE_BIASES = ((".attn.q_bias", ".attn.q_proj.bias"), (".attn.v_bias", ".attn.v_proj.bias"))
"""Spelling of the projections' biases in EVA-CLIP, which the LLM2CLIP repository does not use."""
_ARCHITECTURES = {
    # (width, blocks, patch side, image side): timm's name
    (768, 12, 16, 224): "eva02_base_patch16_clip_224",
    (1024, 24, 14, 224): "eva02_large_patch14_clip_224",
    (1024, 24, 14, 336): "eva02_large_patch14_clip_336",
}
_HEAD_WIDTH = 64


def convert_eva02(tensors: Mapping[str, torch.Tensor]) -> VisionPart:
    """Convert the vision tower of a checkpoint of layout ``eva02``; its head becomes the projection.

    Raises:
        ModelError: keys are missing or unexpected, it is another kind of EVA, or its rotary angles are not timm's.
    """
    tower = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    buffers = {name: tower.pop(name) for name in list(tower) if ROPE_BUFFER.fullmatch(name)}
    head = {f"projection.{part}": need(tower, f"head.{part}") for part in ("weight", "bias")}
    lone = [name for name in tower if name.endswith(("q_bias", "v_bias"))]
    found = {to_timm(name): t for name, t in tower.items() if not name.startswith("head.")}
    architecture, options = _architecture(found, buffers)
    model = _skeleton(architecture, options)
    check_keys(f"vision tower {PREFIX}* (as timm's {architecture})", shapes_of(model), found)
    _check_angles(model, buffers)
    side = model.patch_embed.img_size[0]
    width = model.embed_dim
    if head["projection.weight"].shape[-1] != width:
        raise ModelError(
            f"{PREFIX}head.weight has {head['projection.weight'].shape[-1]} input dimensions, but the tower has"
            f" {width}."
        )
    return VisionPart(
        config=VisionConfig(
            library="timm",
            architecture=architecture,
            weights=None,
            projection=True,
            options=options,
            preprocess=openai_pixels(side),
        ),
        dim=head["projection.weight"].shape[0],
        tensors={f"backbone.{name}": t for name, t in found.items()} | head,
        used=frozenset(name for name in tensors if name.startswith(PREFIX)),
        notes=(f"{len(lone)} biases are named q_bias and v_bias; q_proj.bias was expected.",) if lone else (),
    )


def eva02_to_checkpoint(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a vision tower's ``backbone.*`` and ``projection.*`` to published names; the inverse of `convert_eva02`.

    Rotary angles are left out, because the training repository's model computes them.
    """
    published = {}
    for name, tensor in tensors.items():
        if name.startswith("projection."):
            published[f"{PREFIX}head.{name.removeprefix('projection.')}"] = tensor
        elif name.startswith("backbone."):
            theirs = name.removeprefix("backbone.")
            for published_part, timm_part in _PUBLISHED_TO_TIMM:
                theirs = theirs.replace(timm_part, published_part)
            published[PREFIX + theirs] = tensor
    return published


def to_timm(name: str) -> str:
    """timm's name of a key after ``visual.``."""
    for theirs, timms in _PUBLISHED_TO_TIMM:
        name = name.replace(theirs, timms)
    for theirs, timms in _LONE_BIASES:
        if name.endswith(theirs):
            name = name.removesuffix(theirs) + timms
    return name


def _architecture(found: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, Any]]:
    """timm's architecture, and the options in which the tower differs from it."""
    if "blocks.0.mlp.fc1_g.weight" not in found or "blocks.0.attn.q_proj.weight" not in found:
        raise ModelError(
            f"The vision tower {PREFIX}* is not an EVA02 with SwiGLU and separate projections: it lacks"
            f" {PREFIX}blocks.0.mlp.w1.weight or {PREFIX}blocks.0.attn.q_proj.weight."
        )
    patch = need(found, "patch_embed.proj.weight")
    width, patch_side, depth = patch.shape[0], patch.shape[-1], count_blocks(found, "blocks.")
    side = patch_side * side_of("The vision tower", need(found, "pos_embed").shape[1] - 1)
    if known := _ARCHITECTURES.get((width, depth, patch_side, side)):
        return known, {}
    head_width = next((t.shape[-1] for t in buffers.values()), _HEAD_WIDTH)
    inner = found["blocks.0.mlp.fc1_g.weight"].shape[0]
    return "eva02_base_patch16_clip_224", {
        "img_size": side,
        "patch_size": patch_side,
        "embed_dim": width,
        "depth": depth,
        "num_heads": max(width // head_width, 1),
        "mlp_ratio": (inner + 0.5) / width,  # timm rounds the product down
    }


def _skeleton(architecture: str, options: Mapping[str, Any], device: str = "meta") -> Any:
    ensure_torchvision()
    import timm

    with torch.device(device):
        return timm.create_model(architecture, pretrained=False, num_classes=0, **options)


def _check_angles(model: Any, buffers: Mapping[str, torch.Tensor]) -> None:
    """Compare the published angles with timm's, to the precision of float16."""
    from timm.layers.pos_embed_sincos import RotaryEmbeddingCat

    grid = list(model.patch_embed.grid_size)
    head_width = model.embed_dim // model.blocks[0].attn.num_heads
    rope: Any = RotaryEmbeddingCat(head_width, in_pixels=False, feat_shape=grid, ref_feat_shape=[16, 16])
    sin, cos = rope.get_embed(grid).float().chunk(2, dim=-1)
    for name, tensor in buffers.items():
        match = ROPE_BUFFER.fullmatch(name)
        expected = cos if match and match["part"] == "cos" else sin
        if tensor.shape != expected.shape:
            raise ModelError(f"{PREFIX}{name} is {list(tensor.shape)}, but its tower needs {list(expected.shape)}.")
        if (off := float((tensor.float() - expected).abs().max())) > 0.01:
            raise ModelError(f"{PREFIX}{name} differs from the rotary angles of timm's EVA02 by up to {off:.3f}.")
