"""Write a model folder as an LLM2CLIP checkpoint in its published layout; the inverse of `convert`.

A tower under transformers' names is written in the Hugging Face layout (``config.json``, ``model.safetensors``), one
under timm's as the training repository's state dict (``model.pt``). Tensors have the names and bits of the checkpoint
that was converted.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from llm2clip_search.encoders.checkpoints.adaptor_keys import adaptor_to_checkpoint, container_of
from llm2clip_search.encoders.checkpoints.convert import END_OF_TURN, HEADER, KEPT_SCALARS, MAX_TOKENS
from llm2clip_search.encoders.checkpoints.eva02 import eva02_to_checkpoint
from llm2clip_search.encoders.checkpoints.layouts import LayoutName
from llm2clip_search.encoders.checkpoints.openai_clip import openai_to_checkpoint
from llm2clip_search.encoders.checkpoints.plain_vit import ARCHITECTURES, plain_vit_to_checkpoint
from llm2clip_search.encoders.checkpoints.siglip2 import siglip2_to_checkpoint
from llm2clip_search.encoders.config import TextConfig, VisionConfig
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.weights import mapped_tensors
from llm2clip_search.errors import ModelError

_LOGIT_SCALE = 4.6052
"""ln 100, the limit during training; written for models that were trained here, which do not store it."""
_ONNX = "--to onnx exports any model."


def write_checkpoint(model: Model, folder: Path) -> str:
    """Write a model in its published layout to an empty folder; returns a line that describes it.

    Raises:
        ModelError: no published layout can hold the model, or its tensors cannot be read.
    """
    layout = _layout(model)
    vision, text = model.tensors("vision"), model.tensors("text")
    adaptor = {name.removeprefix("adaptor."): t for name, t in text.items() if name.startswith("adaptor.")}
    assert model.config.text.adaptor is not None, "checked with the captions"
    container = container_of(layout, normalises=model.config.text.adaptor.normalises)
    tensors = _vision(layout, vision, model.config.vision) | adaptor_to_checkpoint(adaptor, container) | _scalars(model)
    if updates := {name.removeprefix("lora."): t for name, t in text.items() if name.startswith("lora.")}:
        write_peft(updates, folder / "llm")
    if layout == "openai":
        from safetensors.torch import save_file

        save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
        _write_openai_config(model, folder / "config.json", tensors)
    else:
        # torch.save writes whole storages, and the tensors of a mapped file share one, so they are cloned.
        with (folder / "model.pt").open("wb") as file:
            torch.save({name: tensor.clone() for name, tensor in tensors.items()}, file)
    return f"layout {layout}, {len(tensors)} tensors, for the LLM {model.config.text.weights}"


def write_peft(updates: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write an LLM's low-rank updates in PEFT's format; the inverse of `read_peft`, with the scale left in ``up``."""
    from safetensors.torch import save_file

    ranks = {name.removesuffix(".down"): t.shape[0] for name, t in updates.items() if name.endswith(".down")}
    rank = max(ranks.values())
    others = {layer: each for layer, each in ranks.items() if each != rank}
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted({layer.rpartition(".")[2] for layer in ranks}),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    matrices = {
        f"base_model.model.{layer}.{letter}.weight": updates[f"{layer}.{ours}"].contiguous()
        for layer in ranks
        for letter, ours in (("lora_A", "down"), ("lora_B", "up"))
    }
    save_file(matrices, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _vision(layout: LayoutName, vision: Mapping[str, torch.Tensor], config: VisionConfig) -> dict[str, torch.Tensor]:
    if layout == "eva02":
        return eva02_to_checkpoint(vision, config)
    write = {"openai": openai_to_checkpoint, "vit": plain_vit_to_checkpoint, "siglip2": siglip2_to_checkpoint}
    return write[layout](vision)


def _layout(model: Model) -> LayoutName:
    """Raises ModelError if a reader of the layout would compute other embeddings than this model."""
    vision, name = model.config.vision, model.reference
    architecture = vision.architecture
    layout: LayoutName
    if model.config.querybank:
        raise ModelError(
            f"The towers of {name} end in querybank normalisation, which no LLM2CLIP layout can hold.", hint=_ONNX
        )
    if vision.weights is not None or vision.library == "open_clip":
        raise ModelError(
            f"The vision tower of {name} is published elsewhere ({vision.weights}); the LLM2CLIP layout is for models"
            " whose folder holds its vision tower, as converted ones do."
        )
    if vision.library == "transformers" and vision.projection:
        layout = "openai"
    elif architecture.startswith(("eva_", "eva02_")) and "_clip_" in architecture and vision.projection:
        layout = "eva02"
    elif any(architecture in sizes.values() for sizes in ARCHITECTURES.values()) and vision.projection:
        layout = "vit"
    elif "siglip" in architecture:
        layout = "siglip2"
    else:
        raise ModelError(
            f"The vision tower of {name} is {architecture or 'a CLIP ViT'} of {vision.library}"
            f"{'' if vision.projection else ' without a projection'}, but the LLM2CLIP layouts hold OpenAI's ViT,"
            " EVA or SigLIP 2.",
            hint=_ONNX,
        )
    _check_captions(model.config.text, layout, name)
    return layout


def _check_captions(text: TextConfig, layout: LayoutName, name: str) -> None:
    found = {
        "library": text.library,
        "instruction": text.instruction,
        "suffix": text.suffix,
        "max_tokens": text.max_tokens,
        "attention": text.attention,
        "pooling": text.pooling,
        "hidden_layers": text.hidden_layers,
        "standardised": text.standardised,
        "clip": text.clip,
        "adaptor": text.adaptor is not None,
    }
    implied = {
        "library": "llm",
        "instruction": HEADER,
        "suffix": END_OF_TURN,
        "max_tokens": MAX_TOKENS,
        "attention": "bidirectional",
        "pooling": "mean",
        "hidden_layers": (-1,),
        "standardised": False,
        "clip": None,
        "adaptor": True,
    }
    if layout == "openai":  # whose text tower normalises; elsewhere the keys say whether it does
        found["normalises"], implied["normalises"] = text.adaptor and text.adaptor.normalises, True
    for key, value in implied.items():
        if found[key] != value:
            raise ModelError(
                f"The text tower of {name} has {key} {found[key]!r}, but readers of the LLM2CLIP layout {layout} assume"
                f" {value!r}.",
                hint="--to onnx --tower text exports any text tower.",
            )


def _scalars(model: Model) -> dict[str, torch.Tensor]:
    assert model.folder is not None, "a model that holds its own tensors has a folder"
    found = mapped_tensors(model.folder / "model.safetensors", keep=lambda name: name in KEPT_SCALARS)
    return {"logit_scale": torch.tensor(_LOGIT_SCALE)} | found


def _write_openai_config(model: Model, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    dim = model.config.dim
    vision = {**model.config.vision.options, "projection_dim": dim, "model_type": "clip_vision_model"}
    dtype = str(tensors["visual_projection.weight"].dtype).removeprefix("torch.")
    config = {
        "architectures": ["LLM2CLIPModel"],
        "model_type": "clip",
        "projection_dim": dim,
        "torch_dtype": dtype,
        "vision_config": vision,
        "text_config": {"model_type": "clip_text_model"},
    }
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
