"""Find the LLM of a published checkpoint, and check its width and its keys."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llm2clip_search.encoders.checkpoints.layouts import listed, shapes_of
from llm2clip_search.encoders.llm import FAMILIES
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.stated_sizes import check_sizes
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError

LLAMA_3_8B = "hf:microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned"
LLAMA_3_2_1B = "hf:microsoft/LLM2CLIP-Llama-3.2-1B-Instruct-CC-Finetuned"
UNTUNED = "hf:meta-llama/Llama-3.1-8B-Instruct"
"""Not tuned on captions; its tuning is published with the SigLIP 2 checkpoint, as low-rank updates."""
LLMS: dict[tuple[bool, int], str] = {
    (True, 4096): LLAMA_3_8B,
    (True, 2048): LLAMA_3_2_1B,
    (False, 4096): UNTUNED,
}
"""The LLM that an adaptor was trained on, by whether it L2-normalises its input (see `adaptor_keys`), and its width."""

_MODEL_PREFIX = "model."
"""Prefix of the decoder's keys if it was saved with its language-model head."""
_LEFT_OUT = ("lm_head.", "rotary_emb.inv_freq")
"""Parts of keys that a text tower does not use: the head, and angles that are computed."""


@dataclass(frozen=True, kw_only=True)
class LLMSource:
    """An LLM on this machine."""

    reference: str
    """Its source as a model folder names it: pinned by commit, or an absolute path."""
    folder: Path


def find_llm(source: str | None, *, normalises: bool, hidden: int) -> LLMSource:
    """The LLM for an adaptor whose input has ``hidden`` dimensions, fetched if it is not on this machine.

    Args:
        source: None takes the LLM that the adaptor was trained on.
        normalises: whether the adaptor L2-normalises its input.

    Raises:
        ModelError: no published LLM fits, it cannot be fetched, it is only low-rank updates of one, its architecture
            or width is wrong, or its weights are not safetensors or lack keys.
    """
    fits = LLMS.get((normalises, hidden))
    wanted = source or fits
    if wanted is None:
        raise ModelError(f"No published LLM fits an adaptor of {hidden} dimensions.", hint="Name one with --llm.")
    fetched = fetch(wanted)
    _refuse_updates(wanted, fetched.path)
    try:
        raw: Any = json.loads((fetched.path / "config.json").read_text(encoding="utf-8"))
        check_sizes(raw, fetched.path / "config.json")
        kind, width = raw["model_type"], raw["hidden_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{wanted} is not an LLM's folder: its config.json cannot be read ({error!r}).") from error
    if kind not in FAMILIES:
        raise ModelError(f"{wanted} is a {kind!r} model; supported LLMs are {', '.join(FAMILIES)}.")
    if width != hidden:
        raise ModelError(
            f"The adaptor takes states of {hidden} dimensions, but {wanted} has {width} (the 8B models have 4096, the"
            f" 1B model 2048){f'; {fits} fits' if fits else ''}."
        )
    _check_weights(wanted, fetched.path)
    if wanted.startswith("dir:"):  # the model folder may be used from another working directory
        return LLMSource(reference=f"dir:{fetched.path.absolute()}", folder=fetched.path)
    pinned = f"{wanted.partition('@')[0]}@{fetched.revision}" if fetched.revision else wanted
    return LLMSource(reference=pinned, folder=fetched.path)


def _weight_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))


def _refuse_updates(name: str, folder: Path) -> None:
    """Raises ModelError if a folder holds only PEFT updates, as those of stage 1 do, some with a ``config.json``."""
    if (folder / "adapter_config.json").exists() and not _weight_paths(folder):
        raise ModelError(
            f"{name} holds low-rank updates of an LLM (adapter_config.json), but not the LLM.",
            hint="Name the updates with --lora, and the LLM that its adapter_config.json names with --llm.",
        )


def _check_weights(name: str, folder: Path) -> None:
    """Compare the keys of an LLM's files with its architecture: transformers would fill missing ones with random
    values."""
    from safetensors import SafetensorError, safe_open

    ensure_torchvision()
    import transformers

    paths = _weight_paths(folder)
    if not paths:
        found = ", ".join(sorted(path.name for path in folder.glob("*.bin"))[:3])
        raise ModelError(
            f"{name} holds no *.safetensors{f', but pickles ({found})' if found else ''}; transformers' save_pretrained"
            " writes safetensors on a machine that trusts it."
        )
    keys: set[str] = set()
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                keys |= set(file.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is not a readable safetensors file: {error}.") from error
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        decoder: Any = transformers.AutoModel.from_config(config, trust_remote_code=False)
    wanted = shapes_of(decoder).keys()
    found_keys = {key.removeprefix(_MODEL_PREFIX) for key in keys if not any(part in key for part in _LEFT_OUT)}
    missing, extra = wanted - found_keys, found_keys - wanted
    if missing or extra:
        parts = [f"{word} {listed(names)}" for word, names in (("missing", missing), ("unexpected", extra)) if names]
        raise ModelError(f"The keys of {name} are not those of a {config.model_type} model: {'; '.join(parts)}.")
