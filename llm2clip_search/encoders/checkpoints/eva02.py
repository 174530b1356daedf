"""EVA vision towers (Fang et al., arXiv 2211.07636 and 2303.11331): from the training repository's names to timm's and
back.

EVA02 towers have separate projections, an inner LayerNorm in both parts of a block, SwiGLU and, unless they were
configured without (``rope``), rotary positions. EVA01 towers and EVA02's bigE have one matrix for query, key and value
and a GELU MLP; bigE's LayerNorms come after attention and MLP (``postnorm``), which no key shows.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from llm2clip_search.encoders.checkpoints.layouts import VisionPart, check_keys, need, openai_pixels, shapes_of
from llm2clip_search.encoders.checkpoints.timm_size import TowerSize
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
_SEPARATE = {
    TowerSize(768, 12, 16, 224): "eva02_base_patch16_clip_224",
    TowerSize(1024, 24, 14, 224): "eva02_large_patch14_clip_224",
    TowerSize(1024, 24, 14, 336): "eva02_large_patch14_clip_336",
}
_FUSED = {
    TowerSize(1408, 40, 14, 224): "eva_giant_patch14_clip_224",
    TowerSize(1792, 64, 14, 224): "eva02_enormous_patch14_clip_224",
}
"""timm's names of the repository's configurations. Another size is the first one's architecture with options."""
_POST_NORM = (1792, 64)
"""Width and blocks of bigE."""
_HEAD_WIDTHS = {1408: 88, 1792: 112}
"""Width of an attention head by tower width: EVA01-g and bigE. It is 64 in the others."""
_ROPE_GRID = 16
"""Side, in patches, of the grid that rotary positions are scaled to (Fang et al., arXiv 2303.11331)."""


def convert_eva02(tensors: Mapping[str, torch.Tensor]) -> VisionPart:
    """Convert the vision tower of a checkpoint of layout ``eva02``; its head becomes the projection.

    Raises:
        ModelError: keys are missing or unexpected, it mixes EVA01 and EVA02, or its rotary angles are not timm's.
    """
    tower = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    buffers = {name: tower.pop(name) for name in list(tower) if ROPE_BUFFER.fullmatch(name)}
    head = {f"projection.{part}": need(tower, f"head.{part}") for part in ("weight", "bias")}
    fused = any(name.endswith("attn.qkv.weight") for name in tower)
    lone = [] if fused else [name for name in tower if name.endswith(("q_bias", "v_bias"))]
    found = {to_timm(name, fused=fused): t for name, t in tower.items() if not name.startswith("head.")}
    size = TowerSize.of(found, class_tokens=1)
    if fused and buffers:
        raise ModelError(
            f"The vision tower {PREFIX}* has fused projections, as EVA01, and rotary positions, as EVA02; no published"
            " one has both."
        )
    architecture, options = _fused(found, size) if fused else _separate(found, size, buffers)
    model = _skeleton(architecture, options)
    check_keys(f"vision tower {PREFIX}* (as timm's {architecture})", shapes_of(model), found)
    _check_angles(model, buffers)
    if (inputs := head["projection.weight"].shape[-1]) != size.width:
        raise ModelError(f"{PREFIX}head.weight has {inputs} input dimensions, but the tower has {size.width}.")
    notes = []
    if lone:
        notes.append(f"{len(lone)} biases are named q_bias and v_bias; q_proj.bias was expected.")
    if not fused and not buffers:
        notes.append(f"The tower has no {PREFIX}rope.freqs_*, so it is read as one without rotary positions.")
    if fused and size not in _FUSED and size[:2] != _POST_NORM:
        notes.append(
            "The tower's keys do not show where its LayerNorms are; they are read as EVA01's, before attention."
        )
    return VisionPart(
        config=VisionConfig(
            library="timm",
            architecture=architecture,
            weights=None,
            projection=True,
            options=options,
            preprocess=openai_pixels(size.side),
        ),
        dim=head["projection.weight"].shape[0],
        tensors={f"backbone.{name}": t for name, t in found.items()} | head,
        used=frozenset(name for name in tensors if name.startswith(PREFIX)),
        notes=tuple(notes),
    )


def eva02_to_checkpoint(tensors: Mapping[str, torch.Tensor], config: VisionConfig) -> dict[str, torch.Tensor]:
    """Rename a vision tower's ``backbone.*`` and ``projection.*`` to published names; the inverse of `convert_eva02`.

    Rotary angles, which are not weights, are computed as the training repository computes them.
    """
    # The MLP of EVA01 has the same names in both.
    parts = _PUBLISHED_TO_TIMM if any(".mlp.fc1_g." in name for name in tensors) else ()
    published = {}
    for name, tensor in tensors.items():
        if name.startswith("projection."):
            published[f"{PREFIX}head.{name.removeprefix('projection.')}"] = tensor
        elif name.startswith("backbone."):
            theirs = name.removeprefix("backbone.")
            for published_part, timm_part in parts:
                theirs = theirs.replace(timm_part, published_part)
            published[PREFIX + theirs] = tensor
    if config.architecture in _SEPARATE.values() and config.options.get("use_rot_pos_emb", True):
        heads = config.options.get("num_heads")
        width = tensors["backbone.pos_embed"].shape[-1]
        published |= _rotary_angles(tensors, width // heads if heads else 64)
    return published


def to_timm(name: str, *, fused: bool) -> str:
    """timm's name of a key after ``visual.``; ``fused`` if query, key and value have one matrix."""
    for theirs, timms in () if fused else _PUBLISHED_TO_TIMM:
        name = name.replace(theirs, timms)
    for theirs, timms in () if fused else _LONE_BIASES:
        if name.endswith(theirs):
            name = name.removesuffix(theirs) + timms
    return name


def _separate(
    found: Mapping[str, torch.Tensor], size: TowerSize, buffers: Mapping[str, torch.Tensor]
) -> tuple[str, dict[str, Any]]:
    """timm's architecture of an EVA02, and the options in which the tower differs from it."""
    gate = found.get("blocks.0.mlp.fc1_g.weight")
    if gate is None or "blocks.0.attn.q_proj.weight" not in found:
        raise ModelError(
            f"The vision tower {PREFIX}* is neither an EVA01 nor an EVA02 with SwiGLU and separate projections: it"
            f" lacks {PREFIX}blocks.0.attn.qkv.weight, and {PREFIX}blocks.0.mlp.w1.weight or"
            f" {PREFIX}blocks.0.attn.q_proj.weight."
        )
    rotary: dict[str, Any] = {} if buffers else {"use_rot_pos_emb": False}
    if known := _SEPARATE.get(size):
        return known, rotary
    head_width = next((t.shape[-1] for t in buffers.values()), _HEAD_WIDTHS.get(size.width, 64))
    sizes = size.options(inner=gate.shape[0], head_width=head_width)
    return next(iter(_SEPARATE.values())), sizes | rotary


def _fused(found: Mapping[str, torch.Tensor], size: TowerSize) -> tuple[str, dict[str, Any]]:
    """timm's architecture of an EVA01 or of EVA02's bigE, and the options in which the tower differs from it."""
    # The value only says that there is a LayerScale, whose factors are among the tensors.
    scaled = {"init_values": 0.1} if "blocks.0.gamma_1" in found else {}
    if known := _FUSED.get(size):
        return known, scaled
    first, post_norm = _FUSED.values()
    inner = need(found, "blocks.0.mlp.fc1.weight").shape[0]
    sizes = size.options(inner=inner, head_width=_HEAD_WIDTHS.get(size.width, 64))
    return post_norm if size[:2] == _POST_NORM else first, sizes | scaled


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
    rope: Any = RotaryEmbeddingCat(head_width, in_pixels=False, feat_shape=grid, ref_feat_shape=[_ROPE_GRID] * 2)
    sin, cos = rope.get_embed(grid).float().chunk(2, dim=-1)
    for name, tensor in buffers.items():
        match = ROPE_BUFFER.fullmatch(name)
        expected = cos if match and match["part"] == "cos" else sin
        if tensor.shape != expected.shape:
            raise ModelError(f"{PREFIX}{name} is {list(tensor.shape)}, but its tower needs {list(expected.shape)}.")
        if (off := float((tensor.float() - expected).abs().max())) > 0.01:
            raise ModelError(f"{PREFIX}{name} differs from the rotary angles of timm's EVA02 by up to {off:.3f}.")


def _rotary_angles(vision: Mapping[str, torch.Tensor], head_width: int) -> dict[str, torch.Tensor]:
    """``freqs_cos`` and ``freqs_sin`` of the tower and of every block, where the repository registers them again."""
    positions = vision["backbone.pos_embed"]
    side = round((positions.shape[1] - 1) ** 0.5)
    half = head_width // 2
    rates = 1.0 / (10000.0 ** (torch.arange(0, half, 2).float() / half))
    line = (torch.arange(side) / side * _ROPE_GRID)[:, None] * rates
    line = line.repeat_interleave(2, dim=-1)
    angles = torch.cat([line[:, None].expand(side, side, half), line[None].expand(side, side, half)], dim=-1)
    angles = angles.reshape(side * side, head_width)
    blocks = sorted({name.split(".")[2] for name in vision if name.startswith("backbone.blocks.")})
    return {
        f"{PREFIX}{place}rope.freqs_{part}": value.to(positions.dtype)
        for place in ("", *(f"blocks.{block}.attn." for block in blocks))
        for part, value in (("cos", angles.cos()), ("sin", angles.sin()))
    }
