"""Distillation that preserves CLIP's knowledge during stage 2, as in ProCLIP (Hu et al., arXiv 2510.18795).

Plain post-training forgets: the ImageNet zero-shot accuracy of CLIP L/14 falls from 74.5 to 52.8 (their table 4). Two
distillations prevent this. First the adaptor alone learns CLIP's own text embeddings, so that contrastive training
starts from CLIP's alignment and not from noise. Then the vision tower is kept close to the original. Both compare
embeddings in one space, so the model's shared space has to be CLIP's: the vision tower keeps its own projection, and
the model has its width.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from llm2clip_search.encoders.config import ModelConfig, TextConfig
from llm2clip_search.encoders.dual import text_tower_of
from llm2clip_search.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Weights and duration of the distillations."""

    text_steps: int = 0
    """Steps at the start of the loop in which only the adaptor is trained, to match the embeddings of CLIP's text
    tower for the same captions."""
    vision: float = 1.0
    """Weight of the distance between the vision tower's embeddings and those of the frozen original, which is added
    to the contrastive loss."""
    structure: float = 1.0
    """Weight of `structure_alignment` relative to `instance_alignment`. ProCLIP sums where this code averages, which
    corresponds to a weight of ``(n - 1) / 2`` for a batch of n."""

    def __post_init__(self) -> None:
        for name in ("text_steps", "vision", "structure"):
            if not getattr(self, name) >= 0:
                raise ModelError(f"A distillation cannot have {name} {getattr(self, name)}: it has to be at least 0.")


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Distillation from the model that training begins from, so that it forgets little.

    The distances between its embeddings and those of the trained model are added to the contrastive loss."""

    images: float = 1.0
    """Weight of the distance between embeddings of images."""
    captions: float = 1.0
    """Weight of the distance between embeddings of captions."""
    structure: float = 1.0
    """Weight of `structure_alignment` relative to `instance_alignment`."""

    def __post_init__(self) -> None:
        for name in ("images", "captions", "structure"):
            if not getattr(self, name) >= 0:
                raise ModelError(f"An anchor cannot have {name} {getattr(self, name)}: it has to be at least 0.")


def require_clip_space(model: ModelConfig, keep: Distillation, steps: int) -> None:
    """Check that a recipe with distillation trains in CLIP's space.

    Raises:
        ModelError: the vision tower has a new projection, or no step is contrastive.
    """
    if model.vision.projection:
        raise ModelError(
            f"Model {model.name} distils CLIP, but its vision tower has a new projection; set the recipe's"
            " vision.projection to False and its dim to CLIP's."
        )
    if keep.text_steps >= steps:
        raise ModelError(f"Of {steps} steps, {keep.text_steps} learn CLIP's text embeddings, so none is contrastive.")


def stored_clip_tower(model: ModelConfig, keep: Distillation | None) -> TextConfig | None:
    """The CLIP text tower whose embeddings the caption store has to hold.

    It is the one fused with the LLM, or the vision tower's own if its embeddings are distilled; None for neither.

    Raises:
        ModelError: both are needed and differ, or the vision tower has no text tower.
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
            f"The model fuses the text tower {fused.architecture or fused.library}/{fused.weights}, but distils"
            f" {own.architecture or own.library}/{own.weights}, the vision tower's own; a caption store holds only one"
            " of them."
        )
    return fused or own


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, structure: float) -> torch.Tensor:
    """Weighted sum of both alignments of L2-normalised vectors, float ``[n, dim]``, ``n >= 2`` (their L_dis)."""
    return instance_alignment(student, teacher) + structure * structure_alignment(student, teacher)


def instance_alignment(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean of ``|s_i - t_i|^2`` over the rows of float ``[n, dim]`` (Hu et al., arXiv 2510.18795, L_ins).

    For L2-normalised vectors this is ``2 - 2 cos``. It is a mean, not their sum, so that its weight does not depend on
    the batch size.
    """
    return (student.float() - teacher.float()).square().sum(dim=-1).mean()


def structure_alignment(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean of ``smooth_l1(|s_i - s_j|, |t_i - t_j|)`` over pairs ``i < j`` of float ``[n, dim]``.

    Hu et al., arXiv 2510.18795, L_struct, as in their released code: with the smooth L1 of Euclidean distances
    (Park et al., arXiv 1904.05068, equation 4).
    """
    pairs = torch.triu_indices(len(student), len(student), offset=1, device=student.device)
    return F.smooth_l1_loss(_distances(student, pairs), _distances(teacher, pairs))


def _distances(vectors: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    # Not pdist: its backward pass on a GPU needs memory for n * n * dim values.
    distances: torch.Tensor = torch.cdist(vectors.float(), vectors.float())[pairs[0], pairs[1]]
    return distances
