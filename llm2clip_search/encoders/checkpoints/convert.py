"""Convert a published LLM2CLIP checkpoint to a model folder.

Tensors keep their published dtype. The LLM is not copied but named by its source; its low-rank updates (PEFT), where
they are published with the checkpoint, are copied to the model folder and merged when the tower is loaded.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llm2clip_search.base.files import file_sha256
from llm2clip_search.encoders.checkpoints.adaptor_keys import AdaptorPart, convert_adaptor
from llm2clip_search.encoders.checkpoints.eva02 import convert_eva02
from llm2clip_search.encoders.checkpoints.layouts import (
    LayoutName,
    PublishedCheckpoint,
    VisionPart,
    detect_layout,
    listed,
    openai_pixels,
    read_checkpoint,
)
from llm2clip_search.encoders.checkpoints.llm_source import UNTUNED, LLMSource, find_llm
from llm2clip_search.encoders.checkpoints.openai_clip import convert_openai
from llm2clip_search.encoders.checkpoints.peft_lora import stack_peft
from llm2clip_search.encoders.checkpoints.plain_vit import Activation, convert_plain_vit
from llm2clip_search.encoders.checkpoints.siglip2 import convert_siglip2, siglip_pixels
from llm2clip_search.encoders.config import ModelConfig, Overlong, PreprocessConfig, TextConfig, VisionConfig
from llm2clip_search.encoders.folders import output_folder, refuse_existing
from llm2clip_search.encoders.image_processor import read_image_processor
from llm2clip_search.encoders.llm import save_tokenizer
from llm2clip_search.errors import ModelError

logger = logging.getLogger(__name__)

HEADER = "<|start_header_id|>user<|end_header_id|>\n\n"
"""Start of Llama 3's user turn, which precedes a caption; the tokenizer adds ``<|begin_of_text|>`` before it."""
END_OF_TURN = "<|eot_id|>"
MAX_TOKENS = 512
"""Number of tokens that every published LLM was tuned on."""

PIXELS: dict[str, Callable[[int], PreprocessConfig]] = {"openai": openai_pixels, "siglip": siglip_pixels}
"""Preprocessing by name: each takes the tower's image size, in pixels per side."""

KEPT_SCALARS = ("logit_scale", "logit_bias")
"""Kept outside both towers: search does not need them, but writing the checkpoint back does."""
LLM_PREFIX = "text.text."
"""Prefix of the frozen LLM in a complete training state; the LLM is named by its source instead."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A checkpoint with this project's configuration and tensor names."""

    layout: LayoutName
    vision: VisionPart
    adaptor: AdaptorPart
    scalars: Mapping[str, torch.Tensor]
    notes: tuple[str, ...]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors as ``model.safetensors`` names them."""
        named = {f"vision.{name}": tensor for name, tensor in self.vision.tensors.items()}
        named |= {f"text.adaptor.{name}": tensor for name, tensor in self.adaptor.tensors.items()}
        return named | dict(self.scalars)


def convert(
    source: Path,
    destination: Path,
    *,
    llm: str | None = None,
    lora: Sequence[Path] = (),
    name: str = "",
    licence: str = "unknown",
    training_data: tuple[str, ...] = (),
    pixels: Callable[[int], PreprocessConfig] | None = None,
    activation: Activation | None = None,
    overlong: Overlong = "keep_suffix",
) -> ModelConfig:
    """Convert a published checkpoint to a model folder; a warning is logged for every unusual spelling.

    Args:
        source: the checkpoint's folder, that of a training run included (see `run_folder`), or its ``.safetensors``,
            ``.pt`` or ``.bin`` file.
        destination: the model folder to write.
        llm: source of the LLM, ``hf:OWNER/REPO[@REVISION]`` or ``dir:PATH``; None takes the one that the adaptor was
            trained on.
        lora: folders with PEFT updates of the LLM, which are added up; without any, one is looked for in ``source``.
        name: of the model; empty takes the destination's.
        pixels: one of `PIXELS`; None takes ``preprocessor_config.json`` in ``source``, or else the preprocessing that
            the layout's models were trained with.
        activation: of a plain ViT, see `convert_plain_vit`; other towers have none to choose.
        overlong: see `TextConfig`.

    Raises:
        ModelError: the destination exists or cannot be written; the checkpoint is damaged or has no published layout;
            keys are missing or unexpected; the LLM's width is not the adaptor's, or its published updates are missing;
            or ``activation`` is given for a tower other than a plain ViT.
    """
    refuse_existing(destination)
    checkpoint = read_checkpoint(source)
    converted = convert_tensors(checkpoint, activation)
    for note in converted.notes:
        logger.warning(note)
    base = find_llm(llm, normalises=converted.adaptor.config.normalises, hidden=converted.adaptor.hidden)
    updates, lora_files = _find_updates(lora, source)
    if not updates and base.reference.partition("@")[0] == UNTUNED:
        raise ModelError(
            f"{base.reference} must be tuned by the low-rank updates published with the checkpoint, but {source} holds"
            " none.",
            hint="Name their folder, LLM2CLIP-Llama-3.1-8B in the published repository, with --lora.",
        )
    config = ModelConfig(
        name=name or destination.name,
        dim=converted.vision.dim,
        vision=replace(converted.vision.config, preprocess=_preprocess(source, converted.vision.config, pixels)),
        text=TextConfig(
            library="llm",
            weights=base.reference,
            max_tokens=MAX_TOKENS,
            attention="bidirectional",
            pooling="mean",
            instruction=HEADER,
            suffix=END_OF_TURN,
            overlong=overlong,
            adaptor=converted.adaptor.config,
        ),
        licence=licence,
        training_data=training_data,
    )
    tensors = converted.tensors() | {f"text.lora.{key}": tensor for key, tensor in updates.items()}
    made_of = {**checkpoint.files, **lora_files}
    with output_folder(destination) as folder:
        _write(folder, config, tensors, base=base)
        _write_origin(folder, config, converted, made_of)
    return config


def convert_tensors(checkpoint: PublishedCheckpoint, activation: Activation | None = None) -> Converted:
    """Rename a checkpoint's tensors and account for every key.

    Args:
        activation: of a plain ViT, see `convert_plain_vit`.

    Raises:
        ModelError: the checkpoint has no published layout, keys and shapes do not fit it, or it is no plain ViT but
            ``activation`` is given.
    """
    tensors = checkpoint.tensors
    layout = detect_layout(tensors)
    vision = _vision(layout, checkpoint, activation)
    adaptor = convert_adaptor(tensors, layout)
    frozen = {name for name in tensors if name.startswith(LLM_PREFIX)} - adaptor.used
    scalars = {name: tensors[name] for name in KEPT_SCALARS if name in tensors}
    if extra := tensors.keys() - vision.used - adaptor.used - frozen - scalars.keys():
        raise ModelError(f"The checkpoint does not have layout {layout}: unexpected keys, {listed(extra)}.")
    if "logit_scale" not in tensors:
        raise ModelError(f"The checkpoint does not have layout {layout}: missing 1 key (logit_scale).")
    if vision.dim != adaptor.dim:
        raise ModelError(
            f"The vision tower has {vision.dim} output dimensions, but the adaptor has {adaptor.dim}: they belong to"
            " different models."
        )
    notes = [*vision.notes, *adaptor.notes]
    if frozen:
        notes.append(f"The LLM's own tensors are not copied, because its source holds them: {listed(frozen)}.")
    return Converted(
        layout=layout,
        vision=vision,
        adaptor=adaptor,
        scalars=scalars,
        notes=tuple(notes),
    )


def _vision(layout: LayoutName, checkpoint: PublishedCheckpoint, activation: Activation | None) -> VisionPart:
    if layout == "vit":
        return convert_plain_vit(checkpoint.tensors, activation)
    if activation is not None:
        raise ModelError(
            f"The activation {activation} was chosen, but a vision tower of layout {layout} has none to choose.",
            hint="--activation is for the training repository's plain ViTs, whose keys do not show it.",
        )
    if layout == "openai":
        return convert_openai(checkpoint.tensors, checkpoint.config)
    return (convert_eva02 if layout == "eva02" else convert_siglip2)(checkpoint.tensors)


def _preprocess(
    source: Path, vision: VisionConfig, pixels: Callable[[int], PreprocessConfig] | None
) -> PreprocessConfig:
    """Raises ModelError if ``preprocessor_config.json`` makes images of another size than the tower takes."""
    side = vision.preprocess.height
    if pixels is not None:
        return pixels(side)
    if not (source / "preprocessor_config.json").exists():
        return vision.preprocess
    stated = read_image_processor(source)
    if (stated.height, stated.width) != (side, side):
        raise ModelError(
            f"{source / 'preprocessor_config.json'} makes {stated.height}x{stated.width} pixels, but the vision tower"
            f" takes {side}x{side}."
        )
    return stated


def _find_updates(lora: Sequence[Path], source: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Low-rank updates by layer, and the hashes of the files that hold them."""
    if not lora:
        lora = sorted({path.parent for path in _adapter_configs(source)})
        if len(lora) > 1:
            some = ", ".join(folder.name for folder in lora[:5])
            raise ModelError(
                f"{source} has {len(lora)} folders with low-rank updates: {some}.",
                hint="Name those to add to the LLM with --lora.",
            )
    updates = stack_peft(lora)
    names = [folder.name for folder in lora]
    labels = [folder.name if names.count(folder.name) == 1 else str(folder) for folder in lora]
    file = "adapter_model.safetensors"
    return updates, {f"{label}/{file}": file_sha256(folder / file) for label, folder in zip(labels, lora, strict=True)}


def _adapter_configs(folder: Path) -> list[Path]:
    """Empty if ``folder`` is a single checkpoint file: what its folder holds may not belong to it."""
    return [*folder.glob("adapter_config.json"), *folder.glob("*/adapter_config.json")]


def _write(folder: Path, config: ModelConfig, tensors: Mapping[str, torch.Tensor], *, base: LLMSource) -> None:
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    if (base.folder / "tokenizer.json").exists():
        shutil.copyfile(base.folder / "tokenizer.json", folder / "tokenizer.json")
    else:
        save_tokenizer(base.reference, folder)
    # Without this token the template would be tokenised as text, which changes every embedding.
    if Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(END_OF_TURN) is None:
        raise ModelError(f"The tokenizer of {base.reference} has no {END_OF_TURN}; captions need Llama 3's tokenizer.")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")


def _write_origin(folder: Path, config: ModelConfig, converted: Converted, made_of: Mapping[str, str]) -> None:
    """Write the model card and ``conversion.json``, which lists the files read and written with their hashes."""
    written = {name: file_sha256(folder / name) for name in ("model.safetensors", "config.json", "tokenizer.json")}
    record = {"layout": converted.layout, "from": dict(made_of), "to": written, "notes": list(converted.notes)}
    (folder / "conversion.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    pixels, adaptor = config.vision.preprocess, converted.adaptor
    rows = "\n".join(f"| {name} | `{sha256}` |" for name, sha256 in made_of.items())
    notes = "\n".join(f"- {note}" for note in converted.notes)
    (folder / "README.md").write_text(
        f"# {config.name}\n\n"
        "An LLM2CLIP model (Huang et al., arXiv 2411.04997), converted from its published checkpoint with unchanged"
        " tensors.\n\n"
        f"- vision: {config.vision.library} {config.vision.architecture or 'CLIPVisionModel'},"
        f" {pixels.height}x{pixels.width} pixels, {pixels.resize} resize, mean {pixels.mean}, std {pixels.std}\n"
        f"- LLM: {config.text.weights}, bidirectional attention, mean over caption and `{END_OF_TURN}`,"
        f" {config.text.max_tokens} tokens\n"
        f"- adaptor: {adaptor.config.blocks} blocks, {adaptor.hidden} to {config.dim} dimensions,"
        f" input {'L2-normalised' if adaptor.config.normalises else 'not normalised'}\n"
        f"- licence: {config.licence}\n\n"
        f"| converted from | SHA-256 |\n|---|---|\n{rows}\n{f'{chr(10)}{notes}{chr(10)}' if notes else ''}",
        encoding="utf-8",
    )
