"""Text towers, from token ids to unit vectors: an LLM with its adaptor, or a classic CLIP text tower."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.dual import clip_projection, create_open_clip
from llm2clip_search.encoders.llm import CaptionLLM, load_caption_llm, quiet_transformers
from llm2clip_search.encoders.loading import load_exactly
from llm2clip_search.encoders.placement import Placement
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.stated_sizes import read_config
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError


class ClipTextTower(nn.Module):
    """A text tower of open_clip or transformers, with the pooling of that library."""

    def __init__(self, model: Any, width: int) -> None:
        """``width`` is the width of its embeddings."""
        super().__init__()
        self.model = model
        self.width = width

    def forward(
        self,
        ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pooling_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """int64 ``[n, length]`` to L2-normalised float32 ``[n, width]``; the masks are not used."""
        out = self.model(ids)
        if not isinstance(out, torch.Tensor):
            out = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
        return F.normalize(out.float(), dim=-1)


class FusedStates(nn.Module):
    """The LLM's pooled state and CLIP's text embedding, each L2-normalised so that neither dominates, concatenated."""

    def __init__(self, llm: CaptionLLM, clip: ClipTextTower) -> None:
        super().__init__()
        self.llm = llm
        self.clip = clip
        self.width = llm.width + clip.width

    def forward(
        self, ids: torch.Tensor, attention_mask: torch.Tensor, pooling_mask: torch.Tensor, clip_ids: torch.Tensor
    ) -> torch.Tensor:
        """int64 ``[n, length]`` for the LLM and ``[n, clip_length]`` for CLIP to float32 ``[n, width]``."""
        states = F.normalize(self.llm(ids, attention_mask, pooling_mask), dim=-1)
        return torch.cat([states, self.clip(clip_ids)], dim=-1)


class LLMTextTower(nn.Module):
    """An LLM, alone or fused with CLIP's text tower, and the adaptor."""

    def __init__(self, states: CaptionLLM | FusedStates, adaptor: Adaptor) -> None:
        super().__init__()
        self.states = states
        self.adaptor = adaptor

    def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
        """The int64 arrays of a tokenizer's batch, in its order, to L2-normalised float32 ``[n, dim]``."""
        return F.normalize(self.adaptor(self.states(*tokens)), dim=-1)


class _OpenClipText(nn.Module):
    """An open_clip model whose ``forward`` is ``encode_text``; the vision tower is removed."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        if hasattr(model, "visual"):
            del model.visual
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.model.encode_text(ids)
        return embedded


def build_text_tower(
    config: TextConfig,
    *,
    dim: int,
    folder: Path | None,
    tensors: Mapping[str, torch.Tensor],
    placement: Placement = Placement(),
) -> nn.Module:
    """Build the tower and load its weights; the vision tower is not touched.

    The LLM or CLIP tower gets the placement's precision; statistics and adaptor stay float32.

    Args:
        dim: width of the embeddings.
        folder: the model folder, where relative sources start.
        tensors: the model folder's tensors under ``text.``, prefix removed.

    Raises:
        ModelError: weights cannot be fetched or do not fit; missing and unexpected ones are named.
    """
    if config.library != "llm":
        return load_clip_text(config, folder=folder, placement=placement)
    if config.adaptor is None:
        raise ModelError("An LLM text tower needs an 'adaptor' in its configuration.")
    states = load_states(config, folder=folder, tensors=tensors, placement=placement)
    with torch.device("meta"):
        adaptor = Adaptor(states.width, dim, config.adaptor)
    own = {name.removeprefix("adaptor."): t for name, t in tensors.items() if not name.startswith(("lora.", "states."))}
    load_exactly(adaptor, own, "text adaptor", device=placement.device)
    return LLMTextTower(states, adaptor).eval()


def load_states(
    config: TextConfig,
    *,
    folder: Path | None,
    tensors: Mapping[str, torch.Tensor],
    placement: Placement = Placement(),
) -> CaptionLLM | FusedStates:
    """The part of a text tower before its adaptor; arguments and errors as for `build_text_tower`."""
    llm = load_caption_llm(config, folder=folder, tensors=tensors, placement=placement)
    if config.clip is None:
        return llm
    return FusedStates(llm, load_clip_text(config.clip, folder=folder, placement=placement))


def load_clip_text(config: TextConfig, *, folder: Path | None, placement: Placement = Placement()) -> ClipTextTower:
    """A classic CLIP text tower.

    Raises:
        ModelError: weights cannot be fetched, or are not a text tower of open_clip or transformers.
    """
    ensure_torchvision()
    if config.weights is None:
        raise ModelError("A text tower needs 'weights', the source of its base model.")
    if config.library == "llm":
        raise ModelError(f"{config.weights} is an LLM, but a CLIP text tower comes from open_clip or transformers.")
    if config.library == "transformers":
        tower = _transformers_text(fetch(config.weights, relative_to=folder).path)
        return tower.to(placement.device, placement.dtype)
    import open_clip

    model = _OpenClipText(create_open_clip(config.architecture, config.weights))
    tower = ClipTextTower(model, open_clip.get_model_config(config.architecture)["embed_dim"])
    return tower.to(placement.device, placement.dtype).eval()


def _transformers_text(path: Path) -> ClipTextTower:
    import transformers

    raw = read_config(path / "config.json")
    kind = raw.get("model_type", "")
    classes = {"clip": "CLIPTextModelWithProjection", "siglip": "SiglipTextModel"}
    if kind not in classes:
        raise ModelError(f"{path} is a {kind!r} model; supported dual encoders of transformers are clip and siglip.")
    loader = getattr(transformers, classes[kind])
    # SigLIP was trained without a padding mask; CLIP's is implied by its causal attention and EOS pooling.
    with quiet_transformers():  # transformers would list the vision tower's tensors as unexpected
        model = loader.from_pretrained(path, local_files_only=True, use_safetensors=True, **clip_projection(kind, raw))
    width = model.config.projection_dim if kind == "clip" else model.config.projection_size
    return ClipTextTower(model, width).eval()
