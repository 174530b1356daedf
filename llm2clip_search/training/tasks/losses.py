"""Contrastive losses over a whole batch of unit vectors."""

import torch
from torch.nn import functional as F

from llm2clip_search.errors import ModelError


def info_nce(
    queries: torch.Tensor, gallery: torch.Tensor, scale: torch.Tensor | float, masked: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean InfoNCE of each query against the gallery, in which item ``i`` belongs to query ``i``.

    ``-log(exp(s_ii) / sum_j exp(s_ij))`` with ``s = scale * q @ g.T`` (van den Oord et al., arXiv
    1807.03748, equation 4).

    Args:
        queries: float ``[n, dim]``, unit.
        gallery: float ``[m, dim]``, unit, ``m >= n``; items beyond ``n`` are negatives of every query.
        scale: the inverse temperature.
        masked: bool ``[n, m]``, true where an item is no negative of the query; the diagonal stays.
    """
    scores = scale * queries.float() @ gallery.float().T
    own = torch.arange(len(queries), device=scores.device)
    if masked is not None:
        masked = masked.clone()
        masked[own, own] = False
        scores = scores.masked_fill(masked, float("-inf"))
    return F.cross_entropy(scores, own)


def clip_loss(
    images: torch.Tensor, captions: torch.Tensor, scale: torch.Tensor | float, same: torch.Tensor | None = None
) -> torch.Tensor:
    """CLIP's symmetric InfoNCE (Radford et al., arXiv 2103.00020, figure 3).

    Args:
        images: float ``[n, dim]``, unit.
        captions: float ``[n, dim]``, unit.
        same: bool ``[n, n]``, true where caption j also describes image i.
    """
    transposed = same.T if same is not None else None
    return (info_nce(images, captions, scale, same) + info_nce(captions, images, scale, transposed)) / 2.0


def siglip_loss(
    images: torch.Tensor,
    captions: torch.Tensor,
    scale: torch.Tensor | float,
    bias: torch.Tensor | float,
    same: torch.Tensor | None = None,
) -> torch.Tensor:
    """SigLIP's sigmoid loss (Zhai et al., arXiv 2303.15343, algorithm 1): each pair by itself, summed per image."""
    scores = scale * images.float() @ captions.float().T + bias
    sign = 2.0 * torch.eye(len(images), device=scores.device) - 1.0
    losses = -F.logsigmoid(sign * scores)
    if same is not None:
        keep = ~same | torch.eye(len(images), dtype=torch.bool, device=scores.device)
        losses = losses * keep
    return losses.sum() / len(images)


def shared_positives(groups: torch.Tensor) -> torch.Tensor:
    """bool ``[n, n]``: where two rows belong to one group and so are no negatives of each other."""
    return groups[:, None] == groups[None, :]


def require_negatives(groups: torch.Tensor) -> None:
    """A batch of one photograph teaches nothing.

    Raises:
        ModelError: no row has a negative.
    """
    if len(torch.unique(groups)) < 2:
        raise ModelError(
            f"A batch of {len(groups)} shows a single photograph, so that no pair has a negative;"
            " a batch needs at least two photographs (the recipe's batch_size)."
        )
