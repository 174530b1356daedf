"""Distillation from the model that training begins from: both modalities stay close to what they were."""

import copy
from collections.abc import Callable, Sequence

import torch

from llm2clip_search.training.tasks.distillation import Anchor, distillation_loss
from llm2clip_search.training.tasks.projection_heads import ProjectionHeads


class AnchoredHeads:
    """The heads as they were before the first step."""

    def __init__(self, anchor: Anchor, heads: ProjectionHeads) -> None:
        self.anchor = anchor
        self._before = copy.deepcopy(heads).requires_grad_(False).eval()

    def image_vectors(self, features: torch.Tensor) -> torch.Tensor:
        """What the former heads make of the former tower's features: unit vectors ``[n, dim]``."""
        return self._before.image_vectors(features)

    def loss(
        self,
        images: torch.Tensor,
        before: torch.Tensor | None,
        captions: Sequence[torch.Tensor],
        embedded: Sequence[torch.Tensor],
        gather: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """The weighted distances.

        Args:
            images: unit vectors ``[n, dim]`` of the batch's images.
            before: those of `image_vectors`; None if images have no weight.
            captions: unit vectors ``[n, dim]`` of each of the captions per image.
            embedded: this rank's stored embeddings of the same captions.
            gather: gathers a tensor from all ranks.
        """
        total = images.new_zeros(())
        structure = self.anchor.structure
        if before is not None:
            total = total + self.anchor.images * distillation_loss(images, before, structure)
        if self.anchor.captions:
            former = [gather(self._before.caption_vectors(each)) for each in embedded]
            apart = [distillation_loss(*pair, structure) for pair in zip(captions, former, strict=True)]
            total = total + self.anchor.captions * torch.stack(apart).mean()
        return total
