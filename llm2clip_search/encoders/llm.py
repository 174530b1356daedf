"""A decoder LLM as a caption encoder: bidirectional attention, and pooling over its hidden states."""

import contextlib
import importlib
import io
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.gguf_header import gguf_shapes
from llm2clip_search.encoders.loading import load_exactly, without_memory
from llm2clip_search.encoders.lora import merge_lora
from llm2clip_search.encoders.placement import Placement, quantizer
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.stated_sizes import read_config
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.weights import mapped_tensors, weight_files
from llm2clip_search.errors import ModelError, first_line

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3")
"""Model types of transformers whose decoders accept a 4-D attention mask."""

_IGNORED = re.compile(r"(^|\.)lm_head\.|\.rotary_emb\.inv_freq$")
"""Tensors in an LLM's folder that are not loaded: its head, and rotary angles, which are computed."""


class CaptionLLM(nn.Module):
    """Maps token ids to one pooled state per caption."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: Any, config: TextConfig) -> None:
        super().__init__()
        self.model = model
        self.bidirectional = config.attention == "bidirectional"
        self.pooling = config.pooling
        self.hidden_layers = config.hidden_layers
        if -1 not in config.hidden_layers:
            # Blocks after the last pooled one are not needed, and its state is pooled without the final norm.
            model.layers = model.layers[: max(config.hidden_layers)]
            model.norm = nn.Identity()
        self.width: int = model.config.hidden_size * len(config.hidden_layers)
        """Width of a pooled state."""
        self.standardised = config.standardised
        if config.standardised:
            self.register_buffer("mean", torch.zeros(self.width))
            self.register_buffer("std", torch.ones(self.width))

    def states(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Hidden states of ``hidden_layers``, concatenated: ``[n, length, width]``.

        The attention mask is passed complete, ``[n, 1, length, length]`` with 0 where a token may attend and the
        dtype's minimum elsewhere. Every family uses such a mask unchanged, so that the library does not add a causal
        mask or a sliding window.
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
        """Three int64 ``[n, length]``, see `TokenBatch`, to pooled states float32 ``[n, width]``."""
        pooled = self.pool(self.states(ids, attention_mask).float(), pooling_mask)
        return (pooled - self.mean) / self.std if self.standardised else pooled

    def pool(self, states: torch.Tensor, pooling_mask: torch.Tensor) -> torch.Tensor:
        """States ``[n, length, width]`` to one state per caption, ``[n, width]``."""
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

    Args:
        tensors: the model folder's tensors under ``text.``, prefix removed; ``lora.*`` and ``states.*`` (mean and
            standard deviation of pooled states) are used.

    Raises:
        ModelError: weights cannot be fetched or do not fit, or a quantised LLM has low-rank updates.
    """
    if config.weights is None:
        raise ModelError("A text tower needs 'weights', the source of its base model.")
    updates = {name.removeprefix("lora."): t for name, t in tensors.items() if name.startswith("lora.")}
    if updates and placement.quantize != "none":
        raise ModelError(
            f"The {len(updates) // 2} low-rank updates of this model cannot be merged into layers quantised to"
            f" {placement.quantize}.",
            hint="Omit --quantize, or use an LLM in which they are merged.",
        )
    llm = CaptionLLM(load_llm(config.weights, relative_to=folder, placement=placement), config)
    if config.standardised:
        for name, buffer in (("mean", llm.mean), ("std", llm.std)):
            found = tensors.get(f"states.{name}")
            if found is None or found.shape != buffer.shape:
                shape = "missing" if found is None else str(list(found.shape))
                raise ModelError(f"Tensor text.states.{name} is {shape}, but shape {list(buffer.shape)} is needed.")
            setattr(llm, name, found.to(placement.device, buffer.dtype))
    merge_lora(llm.model, updates)
    return llm


def load_llm(source: str, *, relative_to: Path | None = None, placement: Placement = Placement()) -> Any:
    """A transformers decoder without its language-model head, from a folder or a GGUF file.

    Tensors are moved to the device as they are read; on the CPU, those that need no conversion stay mapped.

    Raises:
        ModelError: weights cannot be fetched or do not fit, or the model type is not one of `FAMILIES`.
    """
    ensure_torchvision()
    import transformers

    path = fetch(source, relative_to=relative_to).path
    with quiet_transformers():
        try:
            if path.suffix == ".gguf":
                model = _load_gguf(path, placement)
            else:
                kind = read_config(path / "config.json").get("model_type")
                if kind not in FAMILIES:
                    raise ModelError(f"{source} is a {kind!r} model; supported LLMs are {', '.join(FAMILIES)}.")
                if placement.quantize == "none":
                    model = _load_folder(source, path, placement)
                else:
                    options = _options(placement)
                    model = transformers.AutoModel.from_pretrained(path, use_safetensors=True, **options)
        except (OSError, ValueError) as error:
            raise ModelError(f"{source} cannot be loaded as an LLM: {error}") from error
    if model.config.model_type not in FAMILIES:
        raise ModelError(f"{source} is a {model.config.model_type!r} model; supported LLMs are {', '.join(FAMILIES)}.")
    return model


def _load_gguf(path: Path, placement: Placement) -> Any:
    import transformers

    gguf_shapes(path)
    try:
        return transformers.AutoModel.from_pretrained(path.parent, gguf_file=path.name, **_options(placement))
    except Exception as error:  # a damaged file fails in many ways, wherever its values are used
        raise ValueError(first_line(error)) from error


def _load_folder(source: str, path: Path, placement: Placement) -> Any:
    """Load without a second copy, and without random values: transformers only warns about missing tensors.

    Names may start with ``model.`` and include a head, as those of complete language models do.
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
    """transformers' quantisation config for the package that is installed: 8-bit integers; or for 4 bits, NF4
    (Dettmers et al., arXiv 2305.14314) with bitsandbytes and integers with torchao.

    Raises:
        ModelError: no package for it is installed.
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
    """Write the ``tokenizer.json`` of an LLM, with which captions are tokenised without transformers.

    Raises:
        ModelError: the LLM cannot be fetched, has no tokenizer, or its tokenizer cannot be written in this format.
    """
    ensure_torchvision()
    import transformers

    path = fetch(source).path
    options = {}
    if path.suffix == ".gguf":
        gguf_shapes(path)
        options = {"gguf_file": path.name}
    try:
        with quiet_transformers():
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                path.parent if options else path, local_files_only=True, **options
            )
    except (OSError, ValueError) as error:
        raise ModelError(f"{source} has no tokenizer that can be read: {first_line(error)}.") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"The tokenizer of {source} cannot be written as a tokenizer.json.")
    alike = tokenizer("a dog")["input_ids"] == tokenizer("two cats on a street")["input_ids"]
    if alike:  # transformers makes an empty tokenizer for a folder that has none
        raise ModelError(f"{source} has no tokenizer: all captions become the same tokens.")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


class quiet_transformers:  # noqa: N801 - used as a verb, like contextlib's own
    """Silences transformers' progress bars and advice while a text tower loads.

    These settings are global, so one thread at a time may load inside it.
    """

    _lock = threading.RLock()

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._lock.acquire()
        self.verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        # The GGUF reader draws a progress bar in spite of both settings.
        self.stderr = contextlib.redirect_stderr(io.StringIO())
        self.stderr.__enter__()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        self.stderr.__exit__(None, None, None)
        logging.set_verbosity(self.verbosity)
        logging.enable_progress_bar()
        self._lock.release()
