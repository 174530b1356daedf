"""The layouts, files and key names, in which LLM2CLIP checkpoints are published.

Keys distinguish four layouts: ``openai``, the Hugging Face layout of the OpenAI towers (``vision_model.*``,
``visual_projection.weight``, ``text_adapter.adaptor.*``), and three of state dicts of the training repository:
``eva02`` (``visual.*`` in EVA's names), ``siglip2`` (``visual.trunk.*`` in timm's) and ``vit``
(``visual.transformer.resblocks.*``, the names of OpenAI's and open_clip's towers). The text tower of a state dict does
not depend on the vision tower, see `adaptor_keys`. All of them contain ``logit_scale``.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from llm2clip_search.base.files import file_sha256
from llm2clip_search.encoders.checkpoints.run_folder import checkpoint_files
from llm2clip_search.encoders.config import PreprocessConfig, VisionConfig
from llm2clip_search.encoders.weights import refuse_pickle
from llm2clip_search.errors import ModelError

LayoutName = Literal["openai", "eva02", "siglip2", "vit"]

_WRAPPERS = ("state_dict", "module", "model")
"""Keys under which training loops store a state dict, next to optimiser and step."""
_PREFIXES = ("module.", "_orig_mod.", "_forward_module.", "model.")
"""Prefixes that DistributedDataParallel, torch.compile, Fabric and wrapping classes add to every key."""


@dataclass(frozen=True, kw_only=True)
class PublishedCheckpoint:
    """A checkpoint as published; only the prefixes of wrappers are removed from its keys."""

    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    """``config.json`` of the checkpoint's folder; empty if there is none."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every file that tensors were read from, by name."""


@dataclass(frozen=True, kw_only=True)
class VisionPart:
    """A converted vision tower: its configuration, its tensors, and the published keys they come from."""

    config: VisionConfig
    dim: int
    """Width of its embeddings."""
    tensors: Mapping[str, torch.Tensor]
    """``backbone.*`` and ``projection.*``, as `vision.build_vision_tower` takes them."""
    used: frozenset[str]
    """Published keys that are accounted for, including those left out on purpose."""
    notes: tuple[str, ...] = ()
    """One sentence for each deviation from the published layout."""


def openai_pixels(size: int) -> PreprocessConfig:
    """Shorter side to ``size`` pixels, centre crop, OpenAI's mean and standard deviation.

    This is the preprocessing of every OpenAI CLIP, and that of the training repository for all of its towers.
    """
    return PreprocessConfig(
        height=size,
        width=size,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


def read_checkpoint(source: Path) -> PublishedCheckpoint:
    """Read a checkpoint: a ``.safetensors`` file, a ``.pt`` or ``.bin`` state dict, or a folder, see `run_folder`.

    State dicts are read with ``weights_only``, which runs none of their code.

    Raises:
        ModelError: there is no checkpoint, or more than one; it is damaged; or it is a pickle that holds more than
            tensors or is named ``.safetensors``.
    """
    if not source.exists():
        raise ModelError(f"There is no checkpoint at {source}.")
    paths = checkpoint_files(source) if source.is_dir() else [source]
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        tensors |= _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return PublishedCheckpoint(
        tensors=_without_prefixes(tensors),
        # A configuration next to a single file may belong to another model.
        config=_read_config(source / "config.json") if source.is_dir() else {},
        files={path.name: file_sha256(path) for path in paths},
    )


def detect_layout(names: Iterable[str]) -> LayoutName:
    """The layout that key names belong to.

    Raises:
        ModelError: they belong to none; the message lists how they start.
    """
    names = list(names)
    if any(name.startswith(("vision_model.encoder.", "vision_model.embeddings.")) for name in names):
        return "openai"
    if any(name.startswith("visual.trunk.") for name in names):
        return "siglip2"
    if any(name.startswith("visual.blocks.") for name in names):
        return "eva02"
    if any(name.startswith("visual.transformer.resblocks.") for name in names):
        return "vit"
    starts = {".".join(name.split(".")[:2]) for name in names}
    raise ModelError(
        "The checkpoint does not have an LLM2CLIP layout: keys should start with vision_model, visual.trunk,"
        f" visual.blocks or visual.transformer, but they start with {listed(starts)}."
    )


def check_keys(what: str, wanted: Mapping[str, torch.Size], found: Mapping[str, torch.Tensor]) -> None:
    """Compare tensors with the names and shapes of a tower.

    Raises:
        ModelError: keys are missing or unexpected, with their number and the first five; or a shape differs.
    """
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    if missing or extra:
        parts = [f"{word} {listed(keys)}" for word, keys in (("missing", missing), ("unexpected", extra)) if keys]
        raise ModelError(f"The keys of the {what} do not fit: {'; '.join(parts)}.")
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise ModelError(f"{name} of the {what} is {list(found[name].shape)}, but {list(shape)} is needed.")


def listed(names: Iterable[str]) -> str:
    """The number of names and the first five of them."""
    names = sorted(names)
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "none"


def shapes_of(module: torch.nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of a module's parameters and buffers."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def side_of(name: str, positions: int) -> int:
    """Side length, in patches, of the square grid that a number of positions makes.

    Raises:
        ModelError: the number is not a square.
    """
    side = math.isqrt(positions)
    if side * side != positions:
        raise ModelError(f"{name} has {positions} patch positions, which do not make a square grid.")
    return side


def need(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """A tensor from which a tower's size is read.

    Raises:
        ModelError: it is missing.
    """
    if name not in tensors:
        raise ModelError(f"The checkpoint lacks {name}, which its layout requires.")
    return tensors[name]


def count_blocks(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Number of blocks, whose keys start with ``prefix`` and the block's number."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    return len(numbers)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    refuse_pickle(path)
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own untyped error on a damaged file
        raise ModelError(f"{path} is not a readable safetensors file: {error}.") from error


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        try:
            raw = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # written before torch 1.6, as a pickle that cannot be mapped
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler may raise anything on bytes that are not a pickle
        raise ModelError(
            f"{path} cannot be read as a state dict that holds only tensors ({type(error).__name__}); if it is not"
            " damaged, save its tensors with safetensors.torch.save_file on a machine that trusts it."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(raw, Mapping) and isinstance(raw.get(wrapper), Mapping):
            raw = raw[wrapper]
    if not isinstance(raw, Mapping) or not raw or not all(isinstance(value, torch.Tensor) for value in raw.values()):
        raise ModelError(f"{path} holds no state dict, which maps names to tensors, at its top or as 'state_dict'.")
    return dict(raw)


def _without_prefixes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = dict(tensors)
    while prefix := next((p for p in _PREFIXES if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} is not a model configuration: it holds a {type(raw).__name__}.")
    return raw
