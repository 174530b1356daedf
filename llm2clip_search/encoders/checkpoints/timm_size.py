"""Size of a vision transformer, read from its tensors, and how timm is asked for one of that size."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from llm2clip_search.encoders.checkpoints.layouts import count_blocks, need, side_of


class TowerSize(NamedTuple):
    """Pixels and counts; what tensors do not show, such as the number of heads, is not part of it."""

    width: int
    blocks: int
    patch: int
    """Side of a patch, in pixels."""
    side: int
    """Side of the image, in pixels."""

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], *, class_tokens: int) -> "TowerSize":
        """Measure a tower under timm's names, with so many positions before those of the patches.

        Raises:
            ModelError: a tensor is missing, or the positions do not make a square grid.
        """
        patches = need(tensors, "patch_embed.proj.weight")
        positions = need(tensors, "pos_embed").shape[1] - class_tokens
        patch = patches.shape[-1]
        return cls(
            patches.shape[0], count_blocks(tensors, "blocks."), patch, patch * side_of("The vision tower", positions)
        )

    def options(self, *, inner: int, head_width: int) -> dict[str, Any]:
        """Arguments of timm's ``create_model`` for a tower of this size whose MLPs have ``inner`` dimensions."""
        return {
            "img_size": self.side,
            "patch_size": self.patch,
            "embed_dim": self.width,
            "depth": self.blocks,
            "num_heads": max(self.width // head_width, 1),
            "mlp_ratio": (inner + 0.5) / self.width,  # timm rounds the product down
        }
