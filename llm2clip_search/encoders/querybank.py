"""Querybank normalisation, a correction for hubness that is stored in the vectors.

Hubs are vectors of the shared space that are close to all queries and displace better results. Bogolin et al. (Cross
Modal Retrieval with Querybank Normalisation, CVPR 2022, arXiv 2112.12777) reduce the score of a query ``q`` and an
item ``v`` by the similarity of ``v`` to a bank of queries, like the inverted softmax of Smith et al.
(arXiv 1702.03859):

    score(q, v) = q.v - strength * hub(v),    hub(v) = log(mean of exp(scale * b.v) over the bank) / scale

Here images are corrected with a bank of captions, and captions with a bank of images. ``hub(v)`` depends only on
``v``, so both corrections are stored as two extra dimensions: the score remains an inner product, which any index can
search, and images can be added later. Vectors are normalised to length 1 again, which divides scores by about 1.25.
Two images, or two captions, share a coordinate, so that their cosines start at 0.2.
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
"""The coordinate that multiplies the other modality's hub coordinate. A larger anchor needs a smaller hub coordinate,
which then changes a vector's length less before it is normalised to 1: by a share of (2 strength hub)^2 / 2.5."""


class QuerybankNorm(nn.Module):
    """Corrects the unit vectors of one modality with a bank of the other's."""

    bank: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, tower: TowerName, strength: float, size: int, width: int) -> None:
        """Creates it with an empty bank ``[size, width]``."""
        super().__init__()
        self.tower, self.strength = tower, strength
        self.register_buffer("bank", torch.empty(size, width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    @classmethod
    def fit(
        cls, tower: TowerName, strength: float, *, own: torch.Tensor, bank: torch.Tensor, scale: float
    ) -> "QuerybankNorm":
        """Compute the normalisation of a tower.

        Args:
            own: unit vectors float ``[n, width]`` of the tower; their mean hub is subtracted, so that an average
                vector keeps its length.
            bank: unit vectors float ``[size, width]`` of the other tower.
            scale: inverse temperature, that of the softmax in training.
        """
        norm = cls(tower, strength, *bank.shape).to(own.device)
        # Rounded as they will be stored, so that training measures what users of the folder get.
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
        """Tensors by their names in a model folder."""
        tensors = {"bank": self.bank.half(), "scale": self.scale, "offset": self.offset}
        return {f"{self.tower}.querybank.{name}": tensor.cpu().contiguous() for name, tensor in tensors.items()}


class NormalisedTower(nn.Module):
    """A tower followed by querybank normalisation."""

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
    """The normalisation of a tower from a model folder's tensors, prefixes removed.

    Raises:
        ModelError: the bank is missing, or its vectors have another width.
    """
    bank = tensors.get("bank")
    if bank is None or bank.ndim != 2 or not len(bank) or bank.shape[1] != config.tower_dim:
        found = "none" if bank is None else str(list(bank.shape))
        raise ModelError(
            f"The {tower} tower's querybank needs vectors of {config.tower_dim} dimensions, but its shape is {found}."
        )
    norm = QuerybankNorm(tower, config.querybank, *bank.shape)
    load_exactly(norm, tensors, f"{tower} tower's querybank", device=device)
    return norm.eval()


def bank_captions(
    config: ModelConfig, *, captions: Mapping[str, torch.Tensor], images: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """What the text tower gives for the captions in the vision tower's bank.

    Args:
        captions: tensors of the vision tower's querybank, which is a bank of captions.
        images: tensors of the text tower's querybank.

    Returns:
        float32 ``[size, dim]``, unit length.
    """
    norm = load_querybank("text", config, images, device="cpu")
    with torch.inference_mode():
        found: torch.Tensor = norm(F.normalize(captions["bank"], dim=1))
    return found
