"""Keeping what CLIP knew while it learns from an LLM, as ProCLIP does (Hu et al., arXiv 2510.18795).

Plain post-training forgets: ImageNet zero-shot of CLIP L/14 falls from 74.5 to 52.8 (their table 4). Two
distillations hold it: first the adaptor alone learns CLIP's own text embeddings, so that contrastive
training starts from CLIP's alignment and not from noise; then the vision tower is held near what it was.
Both compare embeddings of one space, so the shared space is CLIP's: its projection stays, its width is the
model's.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from llm2clip_search.encoders.config import ModelConfig, TextConfig
from llm2clip_search.encoders.dual import text_tower_of
from llm2clip_search.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How, and how firmly."""

    text_steps: int = 0
    """Of the loop's steps those at the start in which the adaptor learns the embeddings that CLIP's text tower
    gives the same captions; the vision tower rests."""
    vision: float = 1.0
    """Weight, beside the contrastive loss, of the distance between the vision tower's embeddings and those
    of the frozen original."""
    structure: float = 1.0
    """Weight of `structure_alignment` relative to `instance_alignment`. ProCLIP sums where we average, which
    for a batch of n amounts to ``(n - 1) / 2``."""

    def __post_init__(self) -> None:
        for name in ("text_steps", "vision", "structure"):
            if not getattr(self, name) >= 0:
                raise ModelError(f"Keeping what CLIP knew cannot have {name} {getattr(self, name)}: it is below 0.")


def require_clip_space(model: ModelConfig, keep: Distillation, steps: int) -> None:
    """Refuse a recipe whose space is not CLIP's.

    Raises:
        ModelError: a projection of ours behind the vision tower, or no contrastive step.
    """
    if model.vision.projection:
        raise ModelError(
            f"Model {model.name} is to keep what CLIP knew, but its vision tower has a new projection; set the"
            " recipe's vision.projection to False and its dim to CLIP's."
        )
    if keep.text_steps >= steps:
        raise ModelError(f"Of {steps} steps {keep.text_steps} learn CLIP's text embeddings: none is contrastive.")


def stored_clip_tower(model: ModelConfig, keep: Distillation | None) -> TextConfig | None:
    """The CLIP text tower whose embeddings a run finds in the caption store: the one that is fused with the
    LLM, or the vision tower's own, whose embeddings are learnt; None where neither is asked for.

    Raises:
        ModelError: two different ones are, or the vision tower has none.
    """
    fused = model.text.clip
    if keep is None or keep.text_steps == 0:
        return fused
    own = text_tower_of(model.vision)
    if fused is not None and (fused.library, fused.architecture, fused.weights) != (
        own.library,
        own.architecture,
        own.weights,
    ):
        raise ModelError(
            f"The text tower {fused.architecture or fused.library}/{fused.weights} is fused, but the embeddings of"
            f" {own.architecture or own.library}/{own.weights}, the vision tower's own, are to be learnt; a caption"
            " store holds one of them."
        )
    return fused or own


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, structure: float) -> torch.Tensor:
    """Both alignments of unit vectors float ``[n, dim]``, ``n >= 2`` (Hu et al., arXiv 2510.18795, L_dis)."""
    return instance_alignment(student, teacher) + structure * structure_alignment(student, teacher)


def instance_alignment(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean of ``|s_i - t_i|^2`` over the rows of float ``[n, dim]`` (Hu et al., arXiv 2510.18795, L_ins).

    Of unit vectors that is ``2 - 2 cos``. The mean, not their sum, keeps its weight when the batch grows.
    """
    return (student.float() - teacher.float()).square().sum(dim=-1).mean()


def structure_alignment(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean of ``smooth_l1(|s_i - s_j|, |t_i - t_j|)`` over pairs ``i < j`` of float ``[n, dim]``.

    Hu et al., arXiv 2510.18795, L_struct; in its released form, with a smooth L1 of Euclidean distances
    (Park et al., arXiv 1904.05068, equation 4).
    """
    pairs = torch.triu_indices(len(student), len(student), offset=1, device=student.device)
    return F.smooth_l1_loss(_distances(student, pairs), _distances(teacher, pairs))


def _distances(vectors: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    # Not pdist, whose backward on a GPU holds n * n * dim numbers.
    distances: torch.Tensor = torch.cdist(vectors.float(), vectors.float())[pairs[0], pairs[1]]
    return distances
