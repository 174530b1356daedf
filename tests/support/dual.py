"""Tiny CLIP and SigLIP folders of transformers."""

import json
from pathlib import Path
from typing import Any

import torch

from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from tests.support.models import save_tokenizer


def save_dual(folder: Path, kind: str, *, vocabulary: int = 320) -> Any:
    """A tiny random CLIP or SigLIP folder in transformers' layout; returns the model.

    Its tokenizer knows 320 tokens; with ``vocabulary`` the table of embeddings is larger.
    """
    ensure_torchvision()
    import transformers

    folder.mkdir()
    save_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>"})
    )
    layers: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    text = {**layers, "vocab_size": vocabulary, "max_position_embeddings": 16, "eos_token_id": 0, "pad_token_id": 0}
    vision = {**layers, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    extra = {"projection_dim": 24} if kind == "clip" else {}
    if kind == "siglip":
        text["projection_size"] = 32
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, **extra)
    model = getattr(transformers, f"{name}Model")(config).eval()
    model.save_pretrained(folder)
    size = {"shortest_edge": 32} if kind == "clip" else {"height": 32, "width": 32}
    crop = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}} if kind == "clip" else {}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": size, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 3, **crop})
    )
    return model
