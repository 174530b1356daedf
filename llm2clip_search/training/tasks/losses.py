"""Contrastive losses over a batch of L2-normalised vectors."""

import torch
from torch.nn import functional as F

from llm2clip_search.errors import ModelError


def info_nce(
    queries: torch.Tensor, gallery: torch.Tensor, scale: torch.Tensor | float, masked: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean InfoNCE of the queries against a gallery in which item ``i`` is the positive of query ``i``.

    ``-log(exp(s_ii) / sum_j exp(s_ij))`` with ``s = scale * q @ g.T`` (van den Oord et al., arXiv
    1807.03748, equation 4).

    Args:
        queries: float ``[n, dim]``, L2-normalised.
        gallery: float ``[m, dim]``, L2-normalised, ``m >= n``; items from ``n`` on are negatives of every query.
        scale: the inverse temperature.
        masked: bool ``[n, m]``, true where an item is not a negative of the query; the diagonal is ignored.
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
        images: float ``[n, dim]``, L2-normalised.
        captions: float ``[n, dim]``, L2-normalised.
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
    """SigLIP's sigmoid loss (Zhai et al., arXiv 2303.15343, algorithm 1): each pair on its own, summed per image."""
    scores = scale * images.float() @ captions.float().T + bias
    sign = 2.0 * torch.eye(len(images), device=scores.device) - 1.0
    losses = -F.logsigmoid(sign * scores)
    if same is not None:
        keep = ~same | torch.eye(len(images), dtype=torch.bool, device=scores.device)
        losses = losses * keep
    return losses.sum() / len(images)


def shared_positives(groups: torch.Tensor) -> torch.Tensor:
    """bool ``[n, n]``: where two rows belong to the same group, so they are not negatives of each other."""
    return groups[:, None] == groups[None, :]


def require_negatives(groups: torch.Tensor) -> None:
    """Check that a batch has negatives.

    Raises:
        ModelError: all rows belong to one photograph.
    """
    if len(torch.unique(groups)) < 2:
        raise ModelError(
            f"A batch of {len(groups)} has a single photograph, so no pair has a negative;"
            " the recipe's batch_size has to give at least two photographs."
        )
