"""The adaptor, LLM2CLIP's ``TextProj``: maps the LLM's pooled state to the shared space."""

import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.config import AdaptorConfig


class ResidualBlock(nn.Module):
    """``x + Linear(GELU(Linear(LayerNorm(x))))``, with dropout on the branch during training."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch: torch.Tensor = self.dropout(self.contract(F.gelu(self.expand(self.norm(x)))))
        return x + branch


class Adaptor(nn.Module):
    """Residual MLP blocks, a final LayerNorm and a projection (Huang et al., arXiv 2411.04997, section 3.2)."""

    def __init__(self, hidden: int, dim: int, config: AdaptorConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.normalises = config.normalises
        inner = config.expansion * hidden
        self.blocks = nn.ModuleList(ResidualBlock(hidden, inner, dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled states float ``[n, hidden]`` to float ``[n, dim]``, not L2-normalised."""
        if self.normalises:
            x = F.normalize(x, dim=-1)
        for block in self.blocks:
            x = block(x)
        projected: torch.Tensor = self.projection(self.dropout(self.norm(x)))
        return projected
