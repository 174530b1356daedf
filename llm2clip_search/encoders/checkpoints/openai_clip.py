"""OpenAI's vision towers under transformers' names, with the projection to 1280 dimensions that LLM2CLIP trained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from llm2clip_search.encoders.checkpoints.layouts import (
    VisionPart,
    check_keys,
    count_blocks,
    need,
    openai_pixels,
    shapes_of,
    side_of,
)
from llm2clip_search.encoders.config import VisionConfig
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError

PREFIX = "vision_model."
PROJECTION = "visual_projection."
DROPPED = ("embeddings.position_ids",)
"""Position indices, which transformers stored with every model before version 4.31."""

_HEAD_WIDTH = 64
"""Width of an attention head in every ViT that OpenAI published."""


def convert_openai(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> VisionPart:
    """Convert the vision tower of a checkpoint of layout ``openai``.

    Sizes are read from the tensors; ``config``, the folder's ``config.json`` or empty, states what they do not show:
    the number of heads and the activation.

    Raises:
        ModelError: the configuration is that of another architecture or size, or keys are missing or unexpected.
    """
    if config and config.get("model_type") != "clip":
        raise ModelError(f"config.json describes a {config.get('model_type')!r} model, but the tensors are a CLIP's.")
    tower = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    stated = config.get("vision_config") or {}
    options = _options(tower, stated)
    ensure_torchvision()
    import transformers

    found = {name: t for name, t in tower.items() if name not in DROPPED}
    with torch.device("meta"):
        model: Any = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**options))
        wanted = shapes_of(getattr(model, "vision_model", model))
    check_keys(f"vision tower {PREFIX}*", wanted, found)
    projection = {f"projection.{n.removeprefix(PROJECTION)}": t for n, t in tensors.items() if n.startswith(PROJECTION)}
    weight = need(tensors, f"{PROJECTION}weight")
    if weight.shape[-1] != options["hidden_size"]:
        raise ModelError(
            f"{PROJECTION}weight has {weight.shape[-1]} input dimensions, but the vision tower has"
            f" {options['hidden_size']}."
        )
    if config.get("projection_dim", weight.shape[0]) != weight.shape[0]:
        raise ModelError(
            f"config.json has projection_dim {config['projection_dim']}, but {PROJECTION}weight has"
            f" {weight.shape[0]} output dimensions."
        )
    return VisionPart(
        config=VisionConfig(
            library="transformers",
            architecture="",
            weights=None,
            projection=True,
            options=options,
            # The published processor is transformers' for OpenAI's CLIP, which rounds a crop's start down.
            preprocess=replace(openai_pixels(options["image_size"]), crop_rounding="down"),
        ),
        dim=weight.shape[0],
        tensors={f"backbone.model.{name}": t for name, t in found.items()} | projection,
        used=frozenset(name for name in tensors if name.startswith((PREFIX, PROJECTION))),
    )


def openai_to_checkpoint(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a vision tower's ``backbone.*`` and ``projection.*`` to published names; inverse of `convert_openai`."""
    names = {"backbone.model.": PREFIX, "projection.": PROJECTION}
    return {
        theirs + name.removeprefix(ours): tensor
        for name, tensor in tensors.items()
        for ours, theirs in names.items()
        if name.startswith(ours)
    }


def _options(tower: Mapping[str, torch.Tensor], stated: Mapping[str, Any]) -> dict[str, Any]:
    patch = need(tower, "embeddings.patch_embedding.weight")
    positions = need(tower, "embeddings.position_embedding.weight").shape[0] - 1
    width = patch.shape[0]
    measured = {
        "hidden_size": width,
        "intermediate_size": need(tower, "encoder.layers.0.mlp.fc1.weight").shape[0],
        "num_hidden_layers": count_blocks(tower, "encoder.layers."),
        "patch_size": patch.shape[-1],
        "image_size": side_of("The vision tower", positions) * patch.shape[-1],
    }
    for key, value in measured.items():
        if stated.get(key, value) != value:
            raise ModelError(f"config.json has vision_config.{key} {stated[key]}, but the tensors have {value}.")
    heads = stated.get("num_attention_heads", width // _HEAD_WIDTH)
    if not heads or width % heads:
        raise ModelError(f"A vision tower of width {width} cannot have {heads} attention heads.")
    return {
        **measured,
        "num_attention_heads": heads,
        "hidden_act": stated.get("hidden_act", "quick_gelu"),
        "layer_norm_eps": stated.get("layer_norm_eps", 1e-5),
    }
