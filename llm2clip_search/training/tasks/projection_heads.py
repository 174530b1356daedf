"""What stage 2 trains beside the tower: projection of image features, adaptor of captions, temperature."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import AdaptorConfig
from llm2clip_search.errors import ModelError

MAX_LOG_SCALE = math.log(100.0)
"""CLIP's own bound: the temperature never falls below 0.01 (Radford et al., arXiv 2103.00020, section 2.5)."""


class ProjectionHeads(nn.Module):
    """Two maps into the shared space, and the scale and bias of their cosines."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        features: torch.Tensor,
        caption_width: int,
        dim: int,
        adaptor: AdaptorConfig,
        *,
        temperature: float,
        projects: bool = True,
        vision_dropout: float = 0.0,
        text_dropout: float = 0.0,
    ) -> None:
        """``features`` float ``[n, width]`` are those of some images: their statistics scale the projection's input.

        Without ``projects`` the vision tower's own space is the shared one, as CLIP's is where it is kept.

        Raises:
            ModelError: that space is not ``dim`` wide.
        """
        super().__init__()
        width = features.shape[1]
        if not projects and width != dim:
            raise ModelError(
                f"The vision tower gives {width} dimensions and nothing projects them, but the model has {dim};"
                f" set the recipe's dim to {width} (and 2 more for a querybank), or its vision.projection to True."
            )
        self.register_buffer("mean", features.mean(dim=0) if projects else torch.zeros(width))
        self.register_buffer("std", features.std(dim=0) + 1e-4 if projects else torch.ones(width))
        self.vision_dropout = nn.Dropout(vision_dropout)
        self.projection = nn.Linear(width, dim) if projects else nn.Identity()
        self.adaptor = Adaptor(caption_width, dim, adaptor, dropout=text_dropout)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        # SigLIP's start: nearly all pairs of a batch are negatives (Zhai et al., arXiv 2303.15343, section 3.2).
        self.bias = nn.Parameter(torch.tensor(-10.0))

    @property
    def scale(self) -> torch.Tensor:
        """The inverse temperature."""
        return self.log_scale.clamp(max=MAX_LOG_SCALE).exp()

    def images(self, features: torch.Tensor) -> torch.Tensor:
        """Features of the vision tower float ``[n, width]`` to unit vectors ``[n, dim]``."""
        return F.normalize(self.projection(self.vision_dropout((features - self.mean) / self.std)), dim=-1)

    def captions(self, embedded: torch.Tensor) -> torch.Tensor:
        """Caption embeddings of the LLM float ``[n, width]`` to unit vectors ``[n, dim]``."""
        return F.normalize(self.adaptor(embedded), dim=-1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """As a model folder holds them: matrices in half precision, the features' statistics in the projection."""
        tensors = {f"text.adaptor.{name}": tensor for name, tensor in self.adaptor.state_dict().items()}
        if isinstance(self.projection, nn.Linear):
            weight = self.projection.weight / self.std
            tensors["vision.projection.weight"] = weight
            tensors["vision.projection.bias"] = self.projection.bias - weight @ self.mean
        return {
            name: (tensor.half() if tensor.ndim > 1 else tensor).detach().cpu().contiguous()
            for name, tensor in tensors.items()
        }
