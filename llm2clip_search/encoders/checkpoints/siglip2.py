"""SigLIP 2 vision towers of the training repository: timm's names, attention pooling, no projection."""

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
from llm2clip_search.encoders.config import PreprocessConfig, VisionConfig
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

PREFIX = "visual.trunk."
ARCHITECTURE = "vit_so400m_patch14_siglip_224"

_SO400M = (1152, 27, 14, 224)
"""Width, blocks, patch side and image side of the published tower."""
_HEAD_WIDTHS = {1152: 72, 1536: 96}
"""Width of an attention head by tower width: So400m and Giant. It is 64 in the others (Zhai et al., arXiv 2303.15343;
Tschannen et al., arXiv 2502.14786)."""


def siglip_pixels(size: int) -> PreprocessConfig:
    """Both sides to ``size`` pixels, mean and standard deviation 0.5: Google's preprocessing of SigLIP 2."""
    return PreprocessConfig(height=size, width=size, resize="squash")


def convert_siglip2(tensors: Mapping[str, torch.Tensor]) -> VisionPart:
    """Convert the vision tower of a checkpoint of layout ``siglip2``.

    Its preprocessing is the training repository's (crop, OpenAI's mean and standard deviation), because its weights
    were tuned with that, although Google's SigLIP 2 uses `siglip_pixels`.

    Raises:
        ModelError: keys are missing or unexpected.
    """
    found = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    patch = need(found, "patch_embed.proj.weight")
    width, patch_side, depth = patch.shape[0], patch.shape[-1], count_blocks(found, "blocks.")
    side = patch_side * side_of("The vision tower", need(found, "pos_embed").shape[1])
    options: dict[str, Any] = {}
    if (width, depth, patch_side, side) != _SO400M:
        inner = need(found, "blocks.0.mlp.fc1.weight").shape[0]
        options = {
            "img_size": side,
            "patch_size": patch_side,
            "embed_dim": width,
            "depth": depth,
            "num_heads": max(width // _HEAD_WIDTHS.get(width, 64), 1),
            "mlp_ratio": (inner + 0.5) / width,  # timm rounds the product down
        }
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, **options)
    check_keys(f"vision tower {PREFIX}*", shapes_of(model), found)
    return VisionPart(
        config=VisionConfig(
            library="timm",
            architecture=ARCHITECTURE,
            weights=None,
            options=options,
            preprocess=openai_pixels(side),
        ),
        dim=width,
        tensors={f"backbone.{name}": t for name, t in found.items()},
        used=frozenset(PREFIX + name for name in found),
    )


def siglip2_to_checkpoint(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a vision tower's ``backbone.*`` to published names; the inverse of `convert_siglip2`."""
    return {PREFIX + name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
