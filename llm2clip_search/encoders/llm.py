"""A decoder LLM as a caption encoder: bidirectional attention and pooling over its states."""

import contextlib
import importlib
import io
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.loading import load_exactly, without_memory
from llm2clip_search.encoders.lora import merge_lora
from llm2clip_search.encoders.placement import Placement, quantizer
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.weights import mapped_tensors, weight_files
from llm2clip_search.errors import ModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3")
"""transformers model types whose decoders take a prepared 4-D attention mask."""

_IGNORED = re.compile(r"(^|\.)lm_head\.|\.rotary_emb\.inv_freq$")
"""Tensors of a decoder's folder that it does not need: its head, and angles that are computed."""


class CaptionLLM(nn.Module):
    """Token ids to one pooled state per caption."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: Any, config: TextConfig) -> None:
        super().__init__()
        self.model = model
        self.bidirectional = config.attention == "bidirectional"
        self.pooling = config.pooling
        self.hidden_layers = config.hidden_layers
        if -1 not in config.hidden_layers:
            # Blocks behind the last pooled one would run for nothing, and its state is wanted as it is.
            model.layers = model.layers[: max(config.hidden_layers)]
            model.norm = nn.Identity()
        self.width: int = model.config.hidden_size * len(config.hidden_layers)
        """Of a pooled state."""
        self.standardised = config.standardised
        if config.standardised:
            self.register_buffer("mean", torch.zeros(self.width))
            self.register_buffer("std", torch.ones(self.width))

    def states(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Hidden states of ``hidden_layers``, side by side: ``[n, length, width]``.

        The mask is handed over ready-made, ``[n, 1, length, length]`` with 0 where a token may look
        and the dtype's minimum where not: every family takes it as it is, so that no causal mask of
        the library's own, sliding windows included, can come back.
        """
        embedded = self.model.get_input_embeddings()(ids)
        length = ids.shape[1]
        allowed = attention_mask[:, None, None, :].expand(-1, 1, length, -1).to(torch.bool)
        if not self.bidirectional:
            position = torch.arange(length, device=ids.device)
            allowed = allowed & (position[:, None] >= position[None, :])
        zero = torch.zeros((), dtype=embedded.dtype, device=ids.device)
        low = torch.full_like(zero, torch.finfo(embedded.dtype).min)
        out = self.model(
            inputs_embeds=embedded,
            attention_mask=torch.where(allowed, zero, low),
            use_cache=False,
            output_hidden_states=True,
        )
        return torch.cat([out.hidden_states[layer] for layer in self.hidden_layers], dim=-1)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor, pooling_mask: torch.Tensor) -> torch.Tensor:
        """int64 ``[n, length]`` each, 1 = read / pooled; float32 pooled states ``[n, width]``."""
        pooled = self.pool(self.states(ids, attention_mask).float(), pooling_mask)
        return (pooled - self.mean) / self.std if self.standardised else pooled

    def pool(self, states: torch.Tensor, pooling_mask: torch.Tensor) -> torch.Tensor:
        """States ``[n, length, width]`` to one a caption."""
        if self.pooling == "last":
            position = torch.arange(states.shape[1], device=states.device)
            last = (pooling_mask * position).argmax(dim=1)
            return states[torch.arange(states.shape[0], device=states.device), last]
        weight = pooling_mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)


def load_caption_llm(
    config: TextConfig,
    *,
    folder: Path | None = None,
    tensors: Mapping[str, torch.Tensor],
    placement: Placement = Placement(),
) -> CaptionLLM:
    """The LLM of a text tower with its low-rank updates merged.

    ``tensors`` are those of the model folder whose names began with ``text.``, prefix removed; of these
    ``lora.`` and ``states.`` (mean and deviation of pooled states) are taken.

    Raises:
        ModelError: weights that cannot be fetched or do not fit, or low-rank updates of a quantised LLM.
    """
    if config.weights is None:
        raise ModelError("A text tower needs 'weights', the source of its base model.")
    updates = {name.removeprefix("lora."): t for name, t in tensors.items() if name.startswith("lora.")}
    if updates and placement.quantize != "none":
        raise ModelError(
            f"--quantize {placement.quantize} cannot merge the {len(updates) // 2} low-rank updates of this model into"
            " quantised layers; leave it out, or use an LLM that holds them merged."
        )
    llm = CaptionLLM(load_llm(config.weights, relative_to=folder, placement=placement), config)
    if config.standardised:
        for name, buffer in (("mean", llm.mean), ("std", llm.std)):
            found = tensors.get(f"states.{name}")
            if found is None or found.shape != buffer.shape:
                shape = "missing" if found is None else str(list(found.shape))
                raise ModelError(f"Tensor text.states.{name} is {shape}, but {list(buffer.shape)} is needed.")
            setattr(llm, name, found.to(placement.device, buffer.dtype))
    merge_lora(llm.model, updates)
    return llm


def load_llm(source: str, *, relative_to: Path | None = None, placement: Placement = Placement()) -> Any:
    """A transformers decoder without its language-model head, from a folder or a GGUF file.

    Tensors go to the device as they are read; those that need no change stay in their file, mapped.

    Raises:
        ModelError: weights that cannot be fetched or do not fit, or a family this package does not know.
    """
    ensure_torchvision()
    import transformers

    path = fetch(source, relative_to=relative_to).path
    with quiet_transformers():
        try:
            if path.suffix == ".gguf":
                options = _options(placement)
                model = transformers.AutoModel.from_pretrained(path.parent, gguf_file=path.name, **options)
            else:
                kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
                if kind not in FAMILIES:
                    raise ModelError(f"{source} is a {kind!r} model; LLM towers are: {', '.join(FAMILIES)}.")
                if placement.quantize == "none":
                    model = _load_folder(source, path, placement)
                else:
                    options = _options(placement)
                    model = transformers.AutoModel.from_pretrained(path, use_safetensors=True, **options)
        except (OSError, ValueError) as error:
            raise ModelError(f"{source} cannot be loaded as an LLM: {error}") from error
    if model.config.model_type not in FAMILIES:
        raise ModelError(f"{source} is a {model.config.model_type!r} model; LLM towers are: {', '.join(FAMILIES)}.")
    return model


def _load_folder(source: str, path: Path, placement: Placement) -> Any:
    """One copy of every number, and none drawn at random: transformers only warns of what a folder lacks.

    Names may begin with ``model.`` and come with a head, as those of language models do.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    model = without_memory(
        lambda: transformers.AutoModel.from_config(config, dtype=placement.dtype, attn_implementation="sdpa")
    )
    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(path):
        tensors |= mapped_tensors(file, keep=lambda name: not _IGNORED.search(name), dtype=placement.dtype)
    own = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    load_exactly(model, own, f"LLM {source}", device=placement.device)
    return model.to(placement.device).eval()


def _options(placement: Placement) -> dict[str, Any]:
    options: dict[str, Any] = {"local_files_only": True, "attn_implementation": "sdpa", "dtype": placement.dtype}
    if placement.device != "cpu" or placement.quantize != "none":
        options["device_map"] = {"": placement.device}
    if placement.quantize != "none":
        options["quantization_config"] = quantization(placement)
    return options


def quantization(placement: Placement) -> Any:
    """What transformers is told, for the package that is installed: 8-bit integers, or NF4 (Dettmers et al.,
    arXiv 2305.14314) with bitsandbytes and 4-bit integers with torchao.

    Raises:
        ModelError: no package for it.
    """
    import transformers

    if quantizer(placement.quantize) == "bitsandbytes":
        if placement.quantize == "8bit":
            return transformers.BitsAndBytesConfig(load_in_8bit=True)
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=placement.dtype
        )
    ao = importlib.import_module("torchao.quantization")
    form = ao.Int8WeightOnlyConfig() if placement.quantize == "8bit" else ao.Int4WeightOnlyConfig()
    return transformers.TorchAoConfig(form)


def save_tokenizer(source: str, folder: Path) -> None:
    """Write the ``tokenizer.json`` of an LLM, so that its captions need no transformers.

    Raises:
        ModelError: weights that cannot be fetched, or a tokenizer that has no such form.
    """
    ensure_torchvision()
    import transformers

    path = fetch(source).path
    options = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    with quiet_transformers():
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            path.parent if options else path, local_files_only=True, **options
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"The tokenizer of {source} has no tokenizer.json form.")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


class quiet_transformers:  # noqa: N801 - used as a verb, like contextlib's own
    """No progress bars or advice from transformers while a text tower loads; our own lines speak.

    What it silences belongs to the whole process, so one thread at a time loads inside it.
    """

    _lock = threading.RLock()

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._lock.acquire()
        self.verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        # Its GGUF reader draws a bar that heeds neither setting.
        self.stderr = contextlib.redirect_stderr(io.StringIO())
        self.stderr.__enter__()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        self.stderr.__exit__(None, None, None)
        logging.set_verbosity(self.verbosity)
        logging.enable_progress_bar()
        self._lock.release()
