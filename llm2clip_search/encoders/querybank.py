"""Querybank normalisation within the vectors: what scores well with everything is taken down.

Some vectors of a shared space are near to all queries, and push better answers down. Bogolin et al. (Cross Modal
Retrieval with Querybank Normalisation, CVPR 2022, arXiv 2112.12777) lessen the score of a query ``q`` and an item
``v`` by what ``v`` scores with a bank of queries, as the inverted softmax of Smith et al. (arXiv 1702.03859) does:

    score(q, v) = q.v - strength * hub(v),    hub(v) = log(mean of exp(scale * b.v) over the bank) / scale

Here images are lessened by a bank of captions and captions by one of images. ``hub(v)`` depends on ``v`` alone, so two
more coordinates hold both: the score stays an inner product, which any index searches, and images added later need no
other image. Vectors have length 1 again afterwards, so that a score is this one divided by about 1.25; two images, or
two captions, share a coordinate, and their cosines begin at 0.2.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.loading import load_exactly
from llm2clip_search.encoders.placement import TowerName
from llm2clip_search.errors import ModelError

ANCHOR = 0.5
"""The coordinate that the other side's hub is multiplied with. The larger it is, the smaller is the hub's own, and the
less that one tells in a vector's length, which is brought back to 1: a share of (2 strength hub)^2 / 2.5."""


class QuerybankNorm(nn.Module):
    """One modality's unit vectors, by a bank of the other's."""

    bank: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, tower: TowerName, strength: float, size: int, width: int) -> None:
        """One with an empty bank ``[size, width]``."""
        super().__init__()
        self.tower, self.strength = tower, strength
        self.register_buffer("bank", torch.empty(size, width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    @classmethod
    def fit(
        cls, tower: TowerName, strength: float, *, own: torch.Tensor, bank: torch.Tensor, scale: float
    ) -> "QuerybankNorm":
        """That of a tower.

        Args:
            own: unit vectors float ``[n, width]`` that the tower gives; their mean hub becomes 0, so that the usual
                vector keeps its length.
            bank: unit vectors float ``[size, width]`` of the other tower.
            scale: inverse temperature, as of the softmax that the towers learnt by.
        """
        norm = cls(tower, strength, *bank.shape).to(own.device)
        # As they will be stored: what is measured in training is what a reader of the folder gets.
        norm.bank = bank.half().float()
        norm.scale = torch.tensor(scale, device=own.device)
        norm.offset = norm._hubs(own).mean()
        return norm

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Unit vectors float32 ``[n, width]`` to unit vectors ``[n, width + 2]``."""
        hubs = (-self.strength / ANCHOR * self._hubs(vectors))[:, None]
        anchor = torch.full_like(hubs, ANCHOR)
        beside = (hubs, anchor) if self.tower == "vision" else (anchor, hubs)
        return F.normalize(torch.cat([vectors, *beside], dim=1), dim=1)

    def _hubs(self, vectors: torch.Tensor) -> torch.Tensor:
        scores = self.scale * vectors @ self.bank.T
        return (torch.logsumexp(scores, dim=1) - math.log(len(self.bank))) / self.scale - self.offset

    def tensors(self) -> dict[str, torch.Tensor]:
        """As a model folder holds them."""
        tensors = {"bank": self.bank.half(), "scale": self.scale, "offset": self.offset}
        return {f"{self.tower}.querybank.{name}": tensor.cpu().contiguous() for name, tensor in tensors.items()}


class NormalisedTower(nn.Module):
    """A tower, and what its vectors are normalised by."""

    def __init__(self, tower: nn.Module, norm: QuerybankNorm) -> None:
        super().__init__()
        self.tower, self.norm = tower, norm

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The tower's inputs to unit vectors float32 ``[n, dim]``."""
        vectors: torch.Tensor = self.norm(self.tower(*inputs))
        return vectors


def load_querybank(
    tower: TowerName, config: ModelConfig, tensors: Mapping[str, torch.Tensor], *, device: str
) -> QuerybankNorm:
    """The norm of a tower whose tensors, prefixes removed, lie in a model folder.

    Raises:
        ModelError: a bank that is missing or of other vectors.
    """
    bank = tensors.get("bank")
    if bank is None or bank.ndim != 2 or not len(bank) or bank.shape[1] != config.tower_dim:
        found = "none" if bank is None else str(list(bank.shape))
        raise ModelError(f"The {tower} tower's querybank should hold vectors of {config.tower_dim}, but is {found}.")
    norm = QuerybankNorm(tower, config.querybank, *bank.shape)
    load_exactly(norm, tensors, f"{tower} tower's querybank", device=device)
    return norm.eval()
