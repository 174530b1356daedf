"""The files and key names in which LLM2CLIP checkpoints are published.

Three layouts are told apart by their keys: ``openai``, the Hugging Face one of the OpenAI towers
(``vision_model.*``, ``visual_projection.weight``, ``text_adapter.adaptor.*``); ``eva02``, a state dict of the
training repository (``visual.*`` in EVA's names, ``text.text_adaptor.*``); and ``siglip2``, of the same repository
with a timm tower (``visual.trunk.*``, ``text.text_proj.text_adaptor.*``). All hold ``logit_scale``.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from llm2clip_search.base.files import file_sha256
from llm2clip_search.encoders.config import PreprocessConfig, VisionConfig
from llm2clip_search.encoders.weights import refuse_pickle
from llm2clip_search.errors import ModelError

LayoutName = Literal["openai", "eva02", "siglip2"]

_WRAPPERS = ("state_dict", "module", "model")
"""Keys under which training loops keep a state dict beside optimiser and step."""
_PREFIXES = ("module.", "_orig_mod.", "_forward_module.", "model.")
"""What DistributedDataParallel, torch.compile, Fabric and wrapping classes put in front of every key."""


@dataclass(frozen=True, kw_only=True)
class PublishedCheckpoint:
    """A published checkpoint as it was read: nothing is renamed but wrappers' prefixes."""

    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    """``config.json`` beside the tensors; empty where there is none."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every file that tensors came from, by name."""


@dataclass(frozen=True, kw_only=True)
class VisionPart:
    """A converted vision tower: its configuration, its tensors, and which published keys they were."""

    config: VisionConfig
    dim: int
    """Width of its embeddings."""
    tensors: Mapping[str, torch.Tensor]
    """``backbone.*`` and ``projection.*``, as `vision.build_vision_tower` takes them."""
    used: frozenset[str]
    """Published keys accounted for, those knowingly left out included."""
    notes: tuple[str, ...] = ()
    """One sentence on everything that is not as published."""


def openai_pixels(size: int) -> PreprocessConfig:
    """Shortest side to ``size`` pixels, centre crop, OpenAI's mean and deviation: the processor of every OpenAI CLIP,
    and what the training repository does before every tower of its own.
    """
    return PreprocessConfig(
        height=size,
        width=size,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


def read_checkpoint(source: Path) -> PublishedCheckpoint:
    """Read a checkpoint: a ``.safetensors`` file, a ``.pt`` or ``.bin`` state dict, or a folder that holds one.

    A state dict is read with ``weights_only``: no code of its own runs.

    Raises:
        ModelError: no checkpoint there, more than one, one that is damaged, or a pickle that is more than tensors or
            is named ``.safetensors``.
    """
    if not source.exists():
        raise ModelError(f"There is no checkpoint at {source}.")
    paths = _files_of(source) if source.is_dir() else [source]
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        tensors |= _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return PublishedCheckpoint(
        tensors=_without_prefixes(tensors),
        # A lone file is read for what it is: a configuration beside it may be another model's.
        config=_read_config(source / "config.json") if source.is_dir() else {},
        files={path.name: file_sha256(path) for path in paths},
    )


def detect_layout(names: Iterable[str]) -> LayoutName:
    """Which layout key names are of.

    Raises:
        ModelError: none; some names are listed.
    """
    names = list(names)
    if any(name.startswith(("vision_model.encoder.", "vision_model.embeddings.")) for name in names):
        return "openai"
    if any(name.startswith("visual.trunk.") for name in names):
        return "siglip2"
    if any(name.startswith("visual.blocks.") for name in names):
        return "eva02"
    starts = {".".join(name.split(".")[:2]) for name in names}
    raise ModelError(
        "The checkpoint has no published LLM2CLIP layout: keys start with vision_model, visual.trunk or"
        f" visual.blocks, but here the starts are {listed(starts)}."
    )


def check_keys(what: str, wanted: Mapping[str, torch.Size], found: Mapping[str, torch.Tensor]) -> None:
    """Hold tensors to the names and shapes of a tower.

    Raises:
        ModelError: missing or unexpected keys, with their number and the first five, or another shape.
    """
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    if missing or extra:
        parts = [f"{word} {listed(keys)}" for word, keys in (("missing", missing), ("unexpected", extra)) if keys]
        raise ModelError(f"Keys of the {what} do not fit: {'; '.join(parts)}.")
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise ModelError(f"{name} of the {what} is {list(found[name].shape)}, but {list(shape)} is needed.")


def listed(names: Iterable[str]) -> str:
    """How many names there are, and the first five."""
    names = sorted(names)
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "none"


def shapes_of(module: torch.nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of what a module loads."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def side_of(name: str, positions: int) -> int:
    """Rows of the square grid of patches that so many positions make.

    Raises:
        ModelError: a number that is no square.
    """
    side = math.isqrt(positions)
    if side * side != positions:
        raise ModelError(f"{name} has {positions} patch positions, which make no square grid.")
    return side


def need(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """A tensor that a tower's size is read from.

    Raises:
        ModelError: it is not there.
    """
    if name not in tensors:
        raise ModelError(f"The checkpoint lacks {name}, which every one of its layout has.")
    return tensors[name]


def count_blocks(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Blocks whose keys start with ``prefix`` and a number."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    return len(numbers)


def _files_of(folder: Path) -> list[Path]:
    """What a folder's tensors lie in: safetensors before the state dicts of older publications."""
    # Low-rank updates of PEFT may lie beside a checkpoint; they are the LLM's, not its.
    if found := sorted(path for path in folder.glob("*.safetensors") if path.name != "adapter_model.safetensors"):
        whole = [path for path in found if path.name == "model.safetensors"]
        return whole or found
    # The EVA02 repositories hold both; their authors measured the .pt, and the .bin is an image tower alone.
    for pattern in ("*.pt", "*.bin"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise ModelError(
                f"{folder} holds {len(found)} checkpoints ({', '.join(path.name for path in found[:5])});"
                " name one file instead of the folder."
            )
        if found:
            return found
    raise ModelError(f"{folder} holds no *.safetensors, *.pt or *.bin.")


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
        except RuntimeError:  # written before torch 1.6: no archive that could be mapped
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no pickle an unpickler raises whatever they lead it to
        raise ModelError(
            f"{path} cannot be read as a state dict of tensors alone ({type(error).__name__}); if it is undamaged, save"
            " its state dict with safetensors.torch.save_file where it was made."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(raw, Mapping) and isinstance(raw.get(wrapper), Mapping):
            raw = raw[wrapper]
    if not isinstance(raw, Mapping) or not raw or not all(isinstance(value, torch.Tensor) for value in raw.values()):
        raise ModelError(f"{path} holds no state dict: a mapping of names to tensors, alone or as 'state_dict'.")
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
        raise ModelError(f"{path} is no model configuration: it holds a {type(raw).__name__}.")
    return raw
