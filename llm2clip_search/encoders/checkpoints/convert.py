"""A published LLM2CLIP checkpoint into a model folder of this project, once.

Nothing is cast: tensors keep the published dtype. The LLM stays where it is and is named by source; its low-rank
updates, where they are published beside it (PEFT), go into the folder and are merged when the tower loads.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError

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
from llm2clip_search.encoders.checkpoints.peft_lora import read_peft
from llm2clip_search.encoders.checkpoints.siglip2 import convert_siglip2, siglip_pixels
from llm2clip_search.encoders.config import ModelConfig, PreprocessConfig, TextConfig, VisionConfig
from llm2clip_search.encoders.image_processor import read_image_processor
from llm2clip_search.encoders.llm import save_tokenizer
from llm2clip_search.errors import ModelError

logger = logging.getLogger(__name__)

HEADER = "<|start_header_id|>user<|end_header_id|>\n\n"
"""Llama 3's user turn, in front of a caption; the tokenizer puts ``<|begin_of_text|>`` before it."""
END_OF_TURN = "<|eot_id|>"
MAX_TOKENS = 512
"""What every published LLM was tuned to read."""

PIXELS: dict[str, Callable[[int], PreprocessConfig]] = {"openai": openai_pixels, "siglip": siglip_pixels}
"""Ways to prepare pixels for a tower whose input has a side of so many."""

KEPT_SCALARS = ("logit_scale", "logit_bias")
"""Kept as they are, outside both towers: search needs neither, a round trip does."""
LLM_PREFIX = "text.text."
"""Below it a whole training state holds the frozen LLM, which is named by source instead."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A checkpoint in this project's terms, nothing written yet."""

    layout: LayoutName
    vision: VisionPart
    adaptor: AdaptorPart
    scalars: Mapping[str, torch.Tensor]
    notes: tuple[str, ...]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What ``model.safetensors`` holds of it."""
        named = {f"vision.{name}": tensor for name, tensor in self.vision.tensors.items()}
        named |= {f"text.adaptor.{name}": tensor for name, tensor in self.adaptor.tensors.items()}
        return named | dict(self.scalars)


def convert(
    source: Path,
    destination: Path,
    *,
    llm: str | None = None,
    lora: Path | None = None,
    name: str = "",
    licence: str = "unknown",
    training_data: tuple[str, ...] = (),
    pixels: Callable[[int], PreprocessConfig] | None = None,
) -> ModelConfig:
    """Write the model folder of a published checkpoint; everything that is not spelled as published is logged.

    The folder gets its name when it is complete; one that exists is left alone.

    Args:
        source: a folder as published, or its ``.safetensors``, ``.pt`` or ``.bin``.
        llm: source of the LLM, ``hf:OWNER/REPO[@REVISION]`` or ``dir:PATH``; None is the one that fits the adaptor.
        lora: folder of PEFT updates of the LLM; None looks for one in ``source``.
        name: of the model; None is the destination's.
        pixels: one of `PIXELS`; None is a ``preprocessor_config.json`` in ``source``, or what its layout was
            trained with.

    Raises:
        ModelError: a destination that exists or cannot be written, a checkpoint that is damaged or of no published
            layout, keys that are missing or unexpected, or an LLM whose width is not the adaptor's or whose published
            updates are not there.
    """
    if destination.exists():
        raise ModelError(f"{destination} exists; name a folder that does not.")
    checkpoint = read_checkpoint(source)
    converted = convert_tensors(checkpoint)
    for note in converted.notes:
        logger.warning(note)
    base = find_llm(llm, layout=converted.layout, hidden=converted.adaptor.hidden)
    updates, lora_files = _find_updates(lora, source)
    if not updates and base.reference.partition("@")[0] == UNTUNED:
        raise ModelError(
            f"{base.reference} is tuned by low-rank updates, but {source} holds none; name their folder"
            " (LLM2CLIP-Llama-3.1-8B in the published repository) with --lora."
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
            adaptor=converted.adaptor.config,
        ),
        licence=licence,
        training_data=training_data,
    )
    tensors = converted.tensors() | {f"text.lora.{key}": tensor for key, tensor in updates.items()}
    made_of = {**checkpoint.files, **lora_files}
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as scratch:
            folder = Path(scratch) / "model"
            folder.mkdir()
            _write(folder, config, tensors, base=base)
            _write_origin(folder, config, converted, made_of)
            folder.rename(destination)
    except (OSError, SafetensorError) as error:  # a full disk is safetensors' own error in its writer
        raise ModelError(f"{destination} could not be written ({error}); nothing of it is left.") from error
    return config


def convert_tensors(checkpoint: PublishedCheckpoint) -> Converted:
    """Rename a checkpoint's tensors, with every key accounted for.

    Raises:
        ModelError: no published layout, or keys and shapes that do not fit it.
    """
    tensors = checkpoint.tensors
    layout = detect_layout(tensors)
    vision = _vision(layout, checkpoint)
    adaptor = convert_adaptor(tensors, layout)
    frozen = {name for name in tensors if name.startswith(LLM_PREFIX)} - adaptor.used
    scalars = {name: tensors[name] for name in KEPT_SCALARS if name in tensors}
    if extra := tensors.keys() - vision.used - adaptor.used - frozen - scalars.keys():
        raise ModelError(f"Keys of the checkpoint do not belong to layout {layout}: unexpected {listed(extra)}.")
    if "logit_scale" not in tensors:
        raise ModelError(f"Keys of the checkpoint do not make layout {layout}: missing 1 (logit_scale).")
    if vision.dim != adaptor.dim:
        raise ModelError(
            f"The vision tower gives {vision.dim} dimensions, but the adaptor {adaptor.dim}: they are of two models."
        )
    left_out = (f"The LLM's own tensors are left out; its source holds them: {listed(frozen)}.",) if frozen else ()
    return Converted(
        layout=layout,
        vision=vision,
        adaptor=adaptor,
        scalars=scalars,
        notes=(*vision.notes, *adaptor.notes, *left_out),
    )


def _vision(layout: LayoutName, checkpoint: PublishedCheckpoint) -> VisionPart:
    if layout == "openai":
        return convert_openai(checkpoint.tensors, checkpoint.config)
    return (convert_eva02 if layout == "eva02" else convert_siglip2)(checkpoint.tensors)


def _preprocess(
    source: Path, vision: VisionConfig, pixels: Callable[[int], PreprocessConfig] | None
) -> PreprocessConfig:
    """Raises ModelError where a ``preprocessor_config.json`` makes images of another size than the tower takes."""
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


def _find_updates(lora: Path | None, source: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Low-rank updates by layer, and the hash of the file that held them."""
    if lora is None:
        found = sorted({path.parent for path in _adapter_configs(source)})
        if len(found) > 1:
            raise ModelError(f"{source} has {len(found)} folders of low-rank updates; name one with --lora.")
        if not found:
            return {}, {}
        lora = found[0]
    updates = read_peft(lora)
    path = lora / "adapter_model.safetensors"
    return updates, {f"{lora.name}/{path.name}": file_sha256(path)}


def _adapter_configs(folder: Path) -> list[Path]:
    """None beside a lone file, whose folder may be anything."""
    return [*folder.glob("adapter_config.json"), *folder.glob("*/adapter_config.json")]


def _write(folder: Path, config: ModelConfig, tensors: Mapping[str, torch.Tensor], *, base: LLMSource) -> None:
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    if (base.folder / "tokenizer.json").exists():
        shutil.copyfile(base.folder / "tokenizer.json", folder / "tokenizer.json")
    else:
        save_tokenizer(base.reference, folder)
    # Without this token the template would be read as letters, and every embedding be another one.
    if Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(END_OF_TURN) is None:
        raise ModelError(f"The tokenizer of {base.reference} has no {END_OF_TURN}; captions need one of Llama 3.")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")


def _write_origin(folder: Path, config: ModelConfig, converted: Converted, made_of: Mapping[str, str]) -> None:
    """The card and ``conversion.json``: what went in and what came out, by hash."""
    written = {name: file_sha256(folder / name) for name in ("model.safetensors", "config.json", "tokenizer.json")}
    record = {"layout": converted.layout, "from": dict(made_of), "to": written, "notes": list(converted.notes)}
    (folder / "conversion.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    pixels, adaptor = config.vision.preprocess, converted.adaptor
    rows = "\n".join(f"| {name} | `{sha256}` |" for name, sha256 in made_of.items())
    notes = "\n".join(f"- {note}" for note in converted.notes)
    (folder / "README.md").write_text(
        f"# {config.name}\n\n"
        "An LLM2CLIP model (Huang et al., arXiv 2411.04997), converted from its published checkpoint; tensors are"
        " unchanged.\n\n"
        f"- vision: {config.vision.library} {config.vision.architecture or 'CLIPVisionModel'},"
        f" {pixels.height}x{pixels.width} pixels, {pixels.resize} resize, mean {pixels.mean}, std {pixels.std}\n"
        f"- LLM: {config.text.weights}, bidirectional, mean over caption and `{END_OF_TURN}`,"
        f" {config.text.max_tokens} tokens\n"
        f"- adaptor: {adaptor.config.blocks} blocks, {adaptor.hidden} to {config.dim} dimensions,"
        f" input {'L2-normalised' if adaptor.config.normalises else 'as it is'}\n"
        f"- licence: {config.licence}\n\n"
        f"| converted from | SHA-256 |\n|---|---|\n{rows}\n{f'{chr(10)}{notes}{chr(10)}' if notes else ''}",
        encoding="utf-8",
    )
