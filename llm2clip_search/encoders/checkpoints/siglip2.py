"""SigLIP 2 vision towers of the training repository: timm's names, attention pooling, a projection or none."""

from collections.abc import Mapping

import torch

from llm2clip_search.encoders.checkpoints.layouts import VisionPart, check_keys, need, openai_pixels, shapes_of
from llm2clip_search.encoders.checkpoints.timm_size import TowerSize
from llm2clip_search.encoders.config import PreprocessConfig, VisionConfig
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

PREFIX = "visual.trunk."
HEAD = "visual.head.proj."
"""The projection of a tower trained with ``timm_proj`` "linear"; the published one has none."""
ARCHITECTURE = "vit_so400m_patch14_siglip_224"

_SO400M = TowerSize(1152, 27, 14, 224)
"""The published tower."""
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
    head = {f"projection.{name.removeprefix(HEAD)}": t for name, t in tensors.items() if name.startswith(HEAD)}
    size = TowerSize.of(found, class_tokens=0)
    head_width = _HEAD_WIDTHS.get(size.width, 64)
    inner = need(found, "blocks.0.mlp.fc1.weight").shape[0]
    options = {} if size == _SO400M else size.options(inner=inner, head_width=head_width)
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, **options)
    check_keys(f"vision tower {PREFIX}*", shapes_of(model), found)
    if head:
        check_keys(f"projection {HEAD}*", _head_shapes(head, size.width), head)
    return VisionPart(
        config=VisionConfig(
            library="timm",
            architecture=ARCHITECTURE,
            weights=None,
            projection=bool(head),
            options=options,
            preprocess=openai_pixels(size.side),
        ),
        dim=need(head, "projection.weight").shape[0] if head else size.width,
        tensors={f"backbone.{name}": t for name, t in found.items()} | head,
        used=frozenset(name for name in tensors if name.startswith((PREFIX, HEAD))),
    )


def siglip2_to_checkpoint(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a vision tower's ``backbone.*`` and ``projection.*`` to published names; inverse of `convert_siglip2`."""
    names = {"backbone.": PREFIX, "projection.": HEAD}
    return {
        theirs + name.removeprefix(ours): tensor
        for name, tensor in tensors.items()
        for ours, theirs in names.items()
        if name.startswith(ours)
    }


def _head_shapes(head: Mapping[str, torch.Tensor], width: int) -> dict[str, torch.Size]:
    """Shapes of a linear layer of that input width, with a bias if there is one (``timm_proj_bias``)."""
    outputs = need(head, "projection.weight").shape[0]
    shapes = {"projection.weight": torch.Size([outputs, width])}
    return shapes | ({"projection.bias": torch.Size([outputs])} if "projection.bias" in head else {})
