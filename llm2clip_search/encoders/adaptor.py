"""The adaptor: LLM2CLIP's ``TextProj``, from the LLM's pooled state to the shared space."""

import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.config import AdaptorConfig


class ResidualBlock(nn.Module):
    """``x + Linear(GELU(Linear(LayerNorm(x))))``."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        contracted: torch.Tensor = self.contract(F.gelu(self.expand(self.norm(x))))
        return x + contracted


class Adaptor(nn.Module):
    """Residual MLP blocks, a final LayerNorm and a projection (Huang et al., arXiv 2411.04997, section 3.2)."""

    input_mean: torch.Tensor
    input_std: torch.Tensor

    def __init__(self, hidden: int, dim: int, config: AdaptorConfig) -> None:
        super().__init__()
        self.standardised = config.input == "standardised"
        if self.standardised:
            self.register_buffer("input_mean", torch.zeros(hidden))
            self.register_buffer("input_std", torch.ones(hidden))
        self.blocks = nn.ModuleList(ResidualBlock(hidden, config.expansion * hidden) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(hidden)
        self.projection = nn.Linear(hidden, dim)

    def normalise_input(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled states as the blocks take them; see `AdaptorConfig.input`."""
        return (x - self.input_mean) / self.input_std if self.standardised else F.normalize(x, dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled states float ``[n, hidden]`` to float ``[n, dim]``, not yet normalised."""
        x = self.normalise_input(x)
        for block in self.blocks:
            x = block(x)
        projected: torch.Tensor = self.projection(self.norm(x))
        return projected
