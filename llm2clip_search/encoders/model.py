"""A resolved model: its configuration, its folder, and its identity, which follows from both."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llm2clip_search.base.identity import ModelIdentity, json_sha256
from llm2clip_search.encoders.cache import model_file_sha256
from llm2clip_search.encoders.config import ModelConfig, TextConfig
from llm2clip_search.encoders.pins import tokenizer_pin, weights_pin
from llm2clip_search.encoders.tokenization import CaptionTokenizer, caption_tokenizer
from llm2clip_search.encoders.weights import mapped_tensors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Model:
    """A resolved model: its configuration, and the folder of its tensors and tokenizer."""

    reference: str
    """The name that resolves to it from any working directory; an index stores it."""
    config: ModelConfig
    folder: Path | None
    """The model folder; None for models of open_clip and transformers, whose libraries load them."""

    def tensors(self, tower: str, *, dtype: "torch.dtype | None" = None) -> dict[str, "torch.Tensor"]:
        """Tensors of ``model.safetensors`` whose names start with ``<tower>.``, prefix removed.

        They are mapped into memory; see `weights.mapped_tensors` for ``dtype``.
        """
        path = self._own_tensors
        if path is None:
            return {}
        found = mapped_tensors(path, keep=lambda name: name.startswith(f"{tower}."), dtype=dtype)
        return {name.partition(".")[2]: tensor for name, tensor in found.items()}

    def querybank(self, tower: str) -> dict[str, "torch.Tensor"]:
        """Tensors of a tower's querybank as float32, by their names in `querybank.QuerybankNorm`; empty without one."""
        import torch

        found = self.tensors(f"{tower}.querybank", dtype=torch.float32)
        return {name.removeprefix("querybank."): tensor for name, tensor in found.items()}

    def tokenizer(self) -> CaptionTokenizer:
        """The text tower's tokenizer; an LLM's imports neither torch nor transformers."""
        return caption_tokenizer(self.config.text, self.folder)

    @cached_property
    def identity(self) -> ModelIdentity:
        """Hashes of everything that determines the embeddings; names, licences and notes are left out.

        Files are read only if they may have changed since the last time; pinned base weights count by their pin.

        Raises:
            ModelError: base weights of the hub that are neither pinned by commit nor on this machine, or the
                configuration of those in a folder cannot be read.
        """
        raw = self.config.to_dict()
        vision = raw["vision"]
        # Newer than the first release, as in `_text_parts`.
        for key in ("options", "pooled_modules"):
            if not vision[key]:
                del vision[key]
        if vision["preprocess"]["crop_rounding"] == "nearest":
            del vision["preprocess"]["crop_rounding"]
        tokens, text, text_pin = _text_parts(self.config.text, self.folder)
        before = {"preprocess": vision.pop("preprocess"), "text": tokens}
        if tokenizer := tokenizer_pin(self.config.text, self.folder):
            before["tokenizer"] = tokenizer
        vision_pin = weights_pin(vision.pop("weights"), self.folder, architecture=vision["architecture"])
        pins = [vision_pin, text_pin]
        own = model_file_sha256(self._own_tensors) if self._own_tensors else ""
        space = {"dim": raw["dim"]} | ({"querybank": raw["querybank"]} if raw["querybank"] else {})
        return ModelIdentity(
            name=self.reference,
            revision=own[:12] or pins[0][:12],
            weights_sha256=json_sha256({"own": own, "pins": pins, "vision": vision, "text": text} | space),
            preprocess_sha256=json_sha256(before),
        )

    @property
    def base_weights(self) -> tuple[str, ...]:
        """Sources of its towers' base weights; empty if the model folder holds all weights."""
        vision, text = self.config.vision, self.config.text
        found = (vision.weights, text.weights, text.clip.weights if text.clip else None)
        return tuple(source for source in found if source is not None)

    @property
    def _own_tensors(self) -> Path | None:
        path = self.folder / "model.safetensors" if self.folder else None
        return path if path is not None and path.exists() else None


def text_fingerprint(text: TextConfig, folder: Path | None = None) -> str:
    """16 hex digits of a classic CLIP text tower, equal for two if and only if their embeddings are.

    Raises:
        ModelError: weights of the hub that are neither pinned by commit nor on this machine.
    """
    return json_sha256(_text_parts(text, folder))[:16]


def _text_parts(text: TextConfig, folder: Path | None) -> tuple[dict[str, object], dict[str, object], str]:
    """A text tower's preprocessing, the rest of its configuration, and the pin of its base weights."""
    rest = asdict(text)
    before = {key: rest.pop(key) for key in ("max_tokens", "instruction", "pooling", "attention")}
    # An LLM's tokenizer is in the model folder, whatever the folder of its weights holds.
    is_own = text.library == "transformers"
    pin = weights_pin(rest.pop("weights"), folder, architecture=text.architecture, tokenizes=is_own)
    # Options newer than the first release count only where they are set, so that older models keep their fingerprints.
    before |= {key: value for key in ("suffix", "lower_case") if (value := rest.pop(key))}
    if rest["overlong"] == "keep_suffix":
        del rest["overlong"]
    for key in ("standardised", "clip"):
        if not rest[key]:
            del rest[key]
    if text.clip is not None:
        rest["clip"] = _text_parts(text.clip, folder)
    return before, rest, pin
