"""The encoder of a model folder: a vision tower and a text tower, each loaded when it is first used."""

import contextlib
import logging
from collections.abc import Sequence
from functools import cached_property
from threading import Thread
from typing import Any

import numpy as np

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.lazy import Lazy
from llm2clip_search.base.vectors import batches_by_length, unit
from llm2clip_search.encoders.encoder import Encoder
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import Quantize, pick_device
from llm2clip_search.encoders.plugins import ENCODER_PLUGINS, load_plugin
from llm2clip_search.encoders.registry import DEFAULT_MODEL, SCHEMES, fetch_model
from llm2clip_search.encoders.towers import (
    Runtime,
    has_compiled_text,
    load_text_graph,
    load_tower,
    text_precision,
)
from llm2clip_search.errors import InputError

logger = logging.getLogger(__name__)

TOKENS_AT_ONCE = 2048
"""Largest number of tokens, padding included, in a call of the text tower. On a CPU, 512 and 4,096 are as fast; without
a bound, long captions are slower, and take memory: attention alone is a score for each two tokens of a caption."""
FEW_TOKENS = 256
"""Most tokens of captions that numpy embeds sooner than ONNX Runtime, which has to open the tower first. With `nano` on
two cores a query is sooner by 0.15 s whether it has 10 or 250 tokens; with more cores, ONNX Runtime gains."""
GPU_BATCH = 256
"""Images in one call of a vision tower on a GPU."""


class TowerEncoder(Encoder):
    """A model's vision tower and text tower; each is loaded when it is first used. Any number of threads may use it."""

    def __init__(
        self, model: Model, *, runtime: Runtime = "auto", device: str = "auto", quantize: Quantize = "none"
    ) -> None:
        """See `load_encoder` for the arguments."""
        self.model = model
        self.dim = model.config.dim
        self.max_tokens = model.config.text.max_tokens
        self.preprocess = model.config.vision.preprocess
        self.training_data = model.config.training_data
        self.calibration = model.config.calibration
        self.placed: dict[str, Any] = {"runtime": runtime, "device": device, "quantize": quantize}
        """What `load_encoder` needs besides the name to load it elsewhere."""
        self._start()

    def _start(self) -> None:
        model, placed = self.model, self.placed
        self._vision = Lazy(lambda: load_tower(model, "vision", **placed | {"quantize": "none"}))
        self._text = Lazy(lambda: load_tower(model, "text", **placed))
        self._tokenizer = Lazy(model.tokenizer)
        self._first: list[str] = []
        self._embedded_first = Lazy[np.ndarray | None](lambda: None)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in this process or another, loads towers and tokenizer again when it first uses them."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Lazy)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    @cached_property
    def identity(self) -> ModelIdentity:  # type: ignore[override]  # a cached property is writable
        """Hashes the model folder's own tensors when it is first asked for."""
        return self.model.identity

    @property
    def name(self) -> str:
        return self.model.reference

    @cached_property
    def text_precision(self) -> str:  # type: ignore[override]  # a cached property is writable
        """See `towers.text_precision`."""
        return text_precision(self.model, **self.placed)

    @cached_property
    def batch_size(self) -> int:  # type: ignore[override]  # a cached property is writable
        return GPU_BATCH if self._is_on_gpu else Encoder.batch_size

    @cached_property
    def calls_at_once(self) -> int:  # type: ignore[override]  # a cached property is writable
        return 2 if self._is_on_gpu else Encoder.calls_at_once

    @property
    def wants_processes(self) -> bool:  # type: ignore[override]  # a property is not writable
        return self._is_on_gpu

    @cached_property
    def _is_on_gpu(self) -> bool:
        return pick_device(self.placed["device"]).startswith("cuda")

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        if len(pixels) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        return unit(self._vision()({"pixels": pixels}))

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        if self._first == list(texts) and (first := self._embedded_first()) is not None:
            return first.copy()
        # Batched by token count: in batches by character count a quarter of what the tower reads is padding.
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        tokenizer = self._tokenizer()
        captions = tokenizer.tokenize(texts)
        lengths = [min(caption.length, self.max_tokens) for caption in captions]
        for rows in batches_by_length(lengths, batch_size, budget=TOKENS_AT_ONCE):
            tokens = tokenizer.batch([captions[row] for row in rows])
            out[rows] = unit(self._text()(tokens._asdict()))
        return out

    def load_for(self, texts: Sequence[str]) -> None:
        """If the text tower was compiled before, embed a few captions in a thread, or open the tower in it for more.

        Other towers take longer, and may have to be fetched.
        """
        if first := list(texts):
            self._first, self._embedded_first = first, Lazy(lambda: self._embed_first(first))
            Thread(target=self._embedded_first).start()

    def _embed_first(self, texts: list[str]) -> np.ndarray | None:
        """Their embeddings, by numpy; None if they are too many, or numpy cannot, and then the text tower is open."""
        with contextlib.suppress(Exception):  # `encode_texts` tries again, and says what is wrong
            graph = load_text_graph(self.model, **self.placed)
            if graph is not None:
                tokenizer = self._tokenizer()
                captions = tokenizer.tokenize(texts)
                if sum(caption.length for caption in captions) <= FEW_TOKENS:
                    return unit(graph(tokenizer.batch(captions)._asdict()))
            if has_compiled_text(self.model, **self.placed):
                self._text()
                self._tokenizer()
        return None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._tokenizer().count(texts)

    def caption_sample(self, count: int) -> np.ndarray | None:
        """Captions of the querybank, which are training captions; None for a model without one."""
        config, captions = self.model.config, self.model.querybank("vision")
        if not config.querybank or "bank" not in captions:
            return None
        from llm2clip_search.encoders.querybank import bank_captions

        chosen = np.linspace(0, len(captions["bank"]) - 1, num=min(count, len(captions["bank"]))).astype(np.int64)
        sample = {"bank": captions["bank"][chosen]}
        return unit(bank_captions(config, captions=sample, images=self.model.querybank("text")).numpy())


def load_encoder(
    name: str = DEFAULT_MODEL, *, runtime: Runtime = "auto", device: str = "auto", quantize: Quantize = "none"
) -> Encoder:
    """Load the encoder of a name: ``nano``, another name of the catalogue, ``open_clip:ARCH/TAG``, ``hf:OWNER/REPO``,
    ``dir:PATH``, or a name whose scheme another installed package provides (see `plugins`).

    What is missing on this machine is fetched: a model's configuration now, the weights of a tower at its first use.

    Args:
        runtime: ``onnx`` compiles each tower for the CPU when it is first used, ``torch`` runs it in PyTorch,
            ``auto`` picks ONNX on a CPU with ONNX Runtime installed.
        device: one of torch's device names, or ``auto``: each tower is placed separately, on the GPU if it fits there.
        quantize: ``8bit`` or ``4bit`` for the linear layers of an LLM text tower; needs bitsandbytes or torchao.
            The fingerprint stays that of the unquantised model, whose embeddings these approximate.

    Raises:
        ModelError: the name stands for no model, what it needs cannot be fetched or read, or its plug-in fails.
    """
    scheme, separator, _ = name.partition(":")
    if not separator or scheme in SCHEMES or (provider := ENCODER_PLUGINS.distribution(scheme)) is None:
        return TowerEncoder(fetch_model(name), runtime=runtime, device=device, quantize=quantize)
    if (runtime, device, quantize) != ("auto", "auto", "none"):
        logger.warning("%s is loaded by %s, which chooses runtime, device and precision itself.", name, provider)
    return load_plugin(name)


def as_encoder(encoder: Encoder | str) -> Encoder:
    """An encoder as it is, or the one that `load_encoder` gives for a name.

    Raises:
        InputError: something else, such as the class of an encoder.
        ModelError: as `load_encoder`.
    """
    if isinstance(encoder, str):
        return load_encoder(encoder)
    if isinstance(encoder, type) or not all(
        hasattr(encoder, name) for name in ("encode_pixels", "encode_texts", "dim")
    ):
        kind = type(encoder).__name__ if not isinstance(encoder, type) else f"the class {encoder.__name__}"
        raise InputError(f"An encoder is what load_encoder gives, or the name of a model, not {kind}.")
    return encoder
