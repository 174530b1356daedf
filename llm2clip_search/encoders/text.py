"""Text towers: an LLM with its adaptor, or a classic CLIP text tower; token ids to unit vectors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.llm import CaptionLLM, load_llm
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.vision import clip_projection, load_exactly
from llm2clip_search.errors import ModelError


class LLMTextTower(nn.Module):
    """The LLM's pooled state through the adaptor."""

    def __init__(self, llm: CaptionLLM, adaptor: Adaptor) -> None:
        super().__init__()
        self.llm = llm
        self.adaptor = adaptor

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor, pooling_mask: torch.Tensor) -> torch.Tensor:
        """int64 ``[n, length]`` each to L2-normalised float32 ``[n, dim]``."""
        return F.normalize(self.adaptor(self.llm(ids, attention_mask, pooling_mask)), dim=-1)


class ClipTextTower(nn.Module):
    """A text tower of open_clip or transformers; it pools where its own training did."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor, pooling_mask: torch.Tensor) -> torch.Tensor:
        """int64 ``[n, length]`` each to L2-normalised float32 ``[n, dim]``; the masks are unused."""
        out = self.model(ids)
        if not isinstance(out, torch.Tensor):
            out = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
        return F.normalize(out.float(), dim=-1)


class _OpenClipText(nn.Module):
    """``encode_text`` as ``forward``; the vision tower is dropped."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        if hasattr(model, "visual"):
            del model.visual
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.model.encode_text(ids)
        return embedded


def build_text_tower(
    config: TextConfig, *, dim: int, folder: Path | None, tensors: Mapping[str, torch.Tensor]
) -> nn.Module:
    """Build the tower and load its weights; the vision tower is not touched.

    ``tensors`` are those of the model folder whose names began with ``text.``, prefix removed.

    Raises:
        ModelError: weights that cannot be fetched or do not fit, naming what is missing or extra.
    """
    ensure_torchvision()
    if config.weights is None:
        raise ModelError("A text tower needs 'weights', the source of its base model.")
    if config.library == "open_clip":
        from llm2clip_search.encoders.dual import create_open_clip

        return ClipTextTower(_OpenClipText(create_open_clip(config.architecture, config.weights))).eval()
    if config.library == "transformers":
        return _transformers_text(fetch(config.weights, relative_to=folder).path)
    if config.adaptor is None:
        raise ModelError("An LLM text tower needs an 'adaptor' in its configuration.")
    llm = CaptionLLM(load_llm(config.weights, relative_to=folder), config)
    adaptor = Adaptor(llm.width, dim, config.adaptor)
    own = {name.removeprefix("adaptor."): t for name, t in tensors.items() if name.startswith("adaptor.")}
    load_exactly(adaptor, own, "text adaptor")
    return LLMTextTower(llm, adaptor).eval()


def _transformers_text(path: Path) -> nn.Module:
    import transformers

    raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
    kind = raw.get("model_type", "")
    classes = {"clip": "CLIPTextModelWithProjection", "siglip": "SiglipTextModel"}
    if kind not in classes:
        raise ModelError(f"{path} is a {kind!r} model; dual encoders of transformers are: clip, siglip.")
    loader = getattr(transformers, classes[kind])
    # SigLIP was trained without a padding mask; CLIP's is implied by its causal attention and EOS pooling.
    model = loader.from_pretrained(path, local_files_only=True, use_safetensors=True, **clip_projection(kind, raw))
    return ClipTextTower(model).eval()
