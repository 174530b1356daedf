"""Low-rank updates: from PEFT's format to that of a model folder (see `lora`)."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llm2clip_search.encoders.checkpoints.layouts import listed
from llm2clip_search.errors import ModelError

_KEY = re.compile(r"(?:base_model\.)?(?:model\.)*(?P<layer>layers\.\d+\..+)\.lora_(?P<half>[AB])(?:\.\w+)?\.weight")
_UNREADABLE = {"use_dora": False, "bias": "none", "modules_to_save": None, "fan_in_fan_out": False}
"""PEFT options under which an update is more than a product of two matrices, with the value that disables them."""


def stack_peft(folders: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The sum of the updates of several PEFT folders, as one update of each layer.

    Merging is linear, so that merging them one after the other, as stage 1 of LLM2CLIP's repository does, and merging
    their sum give the same LLM: ``up1 @ down1 + up2 @ down2 = [up1 up2] @ [down1; down2]``.

    Raises:
        ModelError: as for `read_peft`, or two updates of a layer are of matrices of different sizes.
    """
    summed: dict[str, torch.Tensor] = {}
    for folder in folders:
        for name, tensor in read_peft(folder).items():
            before = summed.get(name)
            rank, size = (1, 0) if name.endswith(".up") else (0, 1)  # axes
            if before is not None and before.shape[size] != tensor.shape[size]:
                raise ModelError(
                    f"{folder} updates matrices of other sizes than the updates before it ({name} has"
                    f" {tensor.shape[size]} instead of {before.shape[size]}): they belong to different LLMs."
                )
            summed[name] = tensor if before is None else torch.cat([before, tensor], dim=rank)
    return summed


def read_peft(folder: Path) -> dict[str, torch.Tensor]:
    """Read the updates of a PEFT folder as ``<layer>.down`` and ``<layer>.up``, with the scale folded into ``up``.

    ``up`` becomes float32.

    Raises:
        ModelError: the folder cannot be read, its method is not LoRA, it uses an option beyond plain LoRA, or it has
            other keys.
    """
    settings_path, path = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    try:
        settings: dict[str, Any] = json.loads(settings_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{settings_path} is not readable: {error}.") from error
    if settings.get("peft_type") != "LORA":
        raise ModelError(f"{settings_path} has method {settings.get('peft_type')!r}; only LORA can be merged.")
    for key, harmless in _UNREADABLE.items():
        if settings.get(key) not in (harmless, None, [], False):
            raise ModelError(f"{settings_path} sets {key} to {settings[key]!r}, which is not a plain low-rank update.")
    tensors = _read(path)
    matches = {name: match for name in tensors if (match := _KEY.fullmatch(name))}
    if extra := tensors.keys() - matches.keys():
        raise ModelError(f"{path} has keys that are not low-rank updates: {listed(extra)}.")
    halves = {
        f"{match['layer']}.{'down' if match['half'] == 'A' else 'up'}": tensors[name] for name, match in matches.items()
    }
    return {
        name: tensor.float() * _scale(settings, name.removesuffix(".up")) if name.endswith(".up") else tensor
        for name, tensor in halves.items()
    }


def _read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if not path.exists():
        raise ModelError(f"{path} does not exist; PEFT writes it with save_pretrained(..., safe_serialization=True).")
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own untyped error on a damaged file
        raise ModelError(f"{path} is not a readable safetensors file: {error}.") from error


def _scale(settings: Mapping[str, Any], layer: str) -> float:
    """``alpha / r``, or ``alpha / sqrt(r)`` with rank-stabilised LoRA (Kalajdzievski, arXiv 2312.03732)."""
    rank = _of_layer(settings.get("rank_pattern") or {}, layer, settings["r"])
    alpha = _of_layer(settings.get("alpha_pattern") or {}, layer, settings["lora_alpha"])
    return float(alpha / (rank**0.5 if settings.get("use_rslora") else rank))


def _of_layer(pattern: Mapping[str, float], layer: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of the layer's name."""
    return next((value for key, value in pattern.items() if re.fullmatch(rf"(?:.*\.)?{key}", layer)), default)
