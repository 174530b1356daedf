"""What stage 2 trains besides the vision tower: the image projection, the adaptor and the temperature."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import AdaptorConfig
from llm2clip_search.errors import ModelError

MAX_LOG_SCALE = math.log(100.0)
"""As in CLIP, the temperature is at least 0.01 (Radford et al., arXiv 2103.00020, section 2.5)."""


class ProjectionHeads(nn.Module):
    """The maps of both modalities into the shared space, and the scale and bias of their cosines."""

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
        """Initialise the heads.

        Args:
            features: vision features of sample images, float ``[n, width]``; their mean and standard deviation
                normalise the projection's input.
            projects: whether there is a projection. Without one, the vision tower's own space is the shared space,
                as it is when CLIP's space is preserved.

        Raises:
            ModelError: without a projection, the vision tower's width differs from ``dim``.
        """
        super().__init__()
        width = features.shape[1]
        if not projects and width != dim:
            raise ModelError(
                f"The vision tower has {width} dimensions and no projection, but the model has {dim};"
                f" set the recipe's dim to {width} (plus 2 for a querybank), or its vision.projection to True."
            )
        self.register_buffer("mean", features.mean(dim=0) if projects else torch.zeros(width))
        self.register_buffer("std", features.std(dim=0) + 1e-4 if projects else torch.ones(width))
        self.vision_dropout = nn.Dropout(vision_dropout)
        self.projection = nn.Linear(width, dim) if projects else nn.Identity()
        self.adaptor = Adaptor(caption_width, dim, adaptor, dropout=text_dropout)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        # SigLIP's initial bias, since most pairs are negatives (Zhai et al., arXiv 2303.15343, section 3.2).
        self.bias = nn.Parameter(torch.tensor(-10.0))

    @property
    def scale(self) -> torch.Tensor:
        """The inverse temperature."""
        return self.log_scale.clamp(max=MAX_LOG_SCALE).exp()

    def image_vectors(self, features: torch.Tensor) -> torch.Tensor:
        """Map vision features, float ``[n, width]``, to L2-normalised vectors ``[n, dim]``."""
        return F.normalize(self.projection(self.vision_dropout((features - self.mean) / self.std)), dim=-1)

    def caption_vectors(self, embedded: torch.Tensor) -> torch.Tensor:
        """Map the LLM's caption embeddings, float ``[n, width]``, to L2-normalised vectors ``[n, dim]``."""
        return F.normalize(self.adaptor(embedded), dim=-1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Tensors for the model folder: matrices in float16, the features' statistics folded into the projection."""
        tensors = {f"text.adaptor.{name}": tensor for name, tensor in self.adaptor.state_dict().items()}
        if isinstance(self.projection, nn.Linear):
            weight = self.projection.weight / self.std
            tensors["vision.projection.weight"] = weight
            tensors["vision.projection.bias"] = self.projection.bias - weight @ self.mean
        return {
            name: (tensor.half() if tensor.ndim > 1 else tensor).detach().cpu().contiguous()
            for name, tensor in tensors.items()
        }
