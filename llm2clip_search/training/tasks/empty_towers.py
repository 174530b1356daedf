"""Towers without weights, on torch's meta device, so that dry runs can count their parameters and operations."""

import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from llm2clip_search.encoders.config import TextConfig, VisionConfig
from llm2clip_search.encoders.dual import open_clip_model, transformers_model
from llm2clip_search.encoders.llm import CaptionLLM
from llm2clip_search.encoders.sources import fetch, find
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.vision import empty_transformers_backbone, with_pooled_modules
from llm2clip_search.errors import ModelError, first_line
from llm2clip_search.training.tasks.vision_training import VisionTraining, depth_of, mark_trained


@dataclass(frozen=True, kw_only=True)
class LLMShape:
    """The part of a decoder's configuration that determines size and cost, with the names of transformers."""

    model_type: str = "llama"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int | None = None
    """None if it is the hidden size divided by the number of heads."""


_LLAMA3_8B = LLMShape(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
_LLAMA32_1B = LLMShape(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
)
_SMOLLM2_135M = LLMShape(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
)
_GEMMA3_270M = LLMShape(
    model_type="gemma3_text",
    vocab_size=262144,
    hidden_size=640,
    intermediate_size=2048,
    num_hidden_layers=18,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=256,
)
LLM_SHAPES = {
    "Llama-3.2-1B": _LLAMA32_1B,
    "Meta-Llama-3-8B": _LLAMA3_8B,
    "Llama-3.1-8B": _LLAMA3_8B,
    "SmolLM2-135M": _SMOLLM2_135M,
    "gemma-3-270m": _GEMMA3_270M,
}
"""Shapes by a part of the source's name, from the published ``config.json`` files; those of Llama are gated."""


def llm_shape(source: str) -> LLMShape:
    """The shape of an LLM; nothing is fetched.

    Raises:
        ModelError: the LLM is neither in `LLM_SHAPES` nor a folder with a decoder's configuration.
    """
    if shape := next((shape for name, shape in LLM_SHAPES.items() if name in source), None):
        return shape
    fields = LLMShape.__dataclass_fields__
    try:
        if not source.startswith("dir:"):
            raise KeyError("not on this disk")
        raw = json.loads((fetch(source).path / "config.json").read_text(encoding="utf-8"))
        return LLMShape(**{name: raw[name] for name in fields if name in raw})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"The shape of {source} is not known ({first_line(error)}); dry runs know {', '.join(LLM_SHAPES)} and"
            " dir:PATH."
        ) from error


def empty_llm(config: TextConfig, blocks: int = 0) -> CaptionLLM:
    """The LLM of a text tower on the meta device.

    Args:
        blocks: number of blocks, if not the LLM's own; the state after the last one is then pooled.

    Raises:
        ModelError: the shape of the LLM is not known.
    """
    assert config.weights is not None, "an LLM text tower names its weights"
    shape = llm_shape(config.weights)
    if blocks:
        shape, config = replace(shape, num_hidden_layers=blocks), replace(config, hidden_layers=(-1,))
    ensure_torchvision()
    from transformers import AutoConfig, AutoModel

    stated = {name: value for name, value in vars(shape).items() if value is not None}
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**stated), attn_implementation="sdpa")
        return CaptionLLM(model, config)


def empty_backbone(config: VisionConfig, device: str = "meta") -> nn.Module:
    """The backbone of a vision tower, with random weights, or without weights on the meta device.

    Raises:
        ModelError: its library does not know the architecture, or the library is transformers and the model's folder,
            which defines it, is not on this machine.
    """
    ensure_torchvision()
    builders = {"timm": _empty_timm, "open_clip": _empty_open_clip, "transformers": _empty_transformers}
    build = builders[config.library]
    with torch.device(device):
        try:
            return with_pooled_modules(build(config, device), config).eval()
        except RuntimeError as error:
            raise ModelError(f"{config.library} has no architecture {config.architecture!r}.") from error


def _empty_timm(config: VisionConfig, device: str) -> nn.Module:
    import timm

    backbone: nn.Module = timm.create_model(config.architecture, pretrained=False, num_classes=0, **config.options)
    return backbone


def _empty_open_clip(config: VisionConfig, device: str) -> nn.Module:
    import open_clip

    # open_clip warns that no weights are loaded, which is intended.
    logging.disable(logging.WARNING)
    try:
        visual: nn.Module = open_clip.create_model(config.architecture, pretrained=None, device=device).visual
        return visual
    finally:
        logging.disable(logging.NOTSET)


def _empty_transformers(config: VisionConfig, device: str) -> nn.Module:
    return empty_transformers_backbone(config, None if config.weights is None else _found(config.weights))


def _found(source: str) -> Path:
    found = find(source)
    if found is None:
        raise ModelError(f"The shape of {source} is not known before it is fetched.")
    return found.path


def require_blocks(vision: VisionConfig, training: VisionTraining) -> None:
    """Check that a tower has the blocks and layers that are to be trained; one of unknown shape is taken to have them.

    Raises:
        ModelError: as `mark_trained`.
    """
    try:
        backbone = empty_backbone(vision)
    except ModelError:
        return
    mark_trained(backbone, training, seed=0)


def is_convolutional(vision: VisionConfig) -> bool:
    """Whether the blocks of a tower consist of convolutions; False for one of unknown shape."""
    try:
        backbone = empty_backbone(vision)
    except ModelError:
        return False
    return any(p.ndim == 4 and 0.0 <= depth_of(name) < math.inf for name, p in backbone.named_parameters())


def clip_width(config: TextConfig | None) -> int:
    """Width of a CLIP text tower's embeddings, which follow the LLM's states in a caption store; 0 for no tower.

    Raises:
        ModelError: the tower is one of transformers, and the model's folder, which defines the width, is not on this
            machine.
    """
    if config is None:
        return 0
    if config.library == "transformers":
        assert config.weights is not None, "towers of transformers name their weights"
        return transformers_model(_found(config.weights), source=config.weights).dim
    return open_clip_model(f"{config.architecture}/{config.weights}").dim
