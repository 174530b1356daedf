"""The folder of a caption-tuned LLM: ``llm.json``, ``model.safetensors`` (low-rank updates), ``tokenizer.json``."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm2clip_search.base.files import file_sha256
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.encoders.config import ModelConfig, TextConfig, text_from_mapping
from llm2clip_search.encoders.llm import CaptionLLM
from llm2clip_search.encoders.model import text_fingerprint
from llm2clip_search.encoders.sources import fetch, pin_is_known
from llm2clip_search.encoders.text import FusedStates, load_states
from llm2clip_search.encoders.tokenization import CaptionTokenizer, caption_tokenizer
from llm2clip_search.errors import ModelError, first_line
from llm2clip_search.training.runtime.gradcache import embed_by_length

SCHEMA_VERSION = 1
EMBED_BATCH = 128
_NOT_LLM = ("text.adaptor.", "text.querybank.", "text.clip.")
"""Tensors of a text tower that come after its LLM, or are beside it."""


@dataclass(frozen=True)
class LLMFolder:
    """A caption-tuned LLM that stage 1 wrote."""

    folder: Path
    text: TextConfig
    """Without adaptor and CLIP text tower, which stage 2 adds."""
    fingerprint: str
    """16 hex digits; equal if and only if two LLMs give the same embeddings."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Tensors of the LLM in ``model.safetensors``, named as in a model folder."""
        from safetensors import safe_open

        with safe_open(self.folder / "model.safetensors", framework="pt") as file:
            names = [name for name in file.keys() if name.startswith("text.") and not name.startswith(_NOT_LLM)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}

    def embedder(self, device: str, clip: TextConfig | None = None) -> "CaptionEmbedder":
        """Load the LLM and merge its low-rank updates.

        Args:
            clip: a CLIP text tower whose embeddings follow the LLM's states.

        Raises:
            ModelError: weights cannot be fetched or do not fit.
        """
        text = replace(self.text, clip=clip)
        own = {name.removeprefix("text."): tensor for name, tensor in self.tensors().items()}
        states = load_states(text, folder=self.folder, tensors=own).to(device).eval()
        return CaptionEmbedder(states, caption_tokenizer(text, self.folder), device)


@dataclass(frozen=True)
class CaptionEmbedder:
    """Embeds captions as input for an adaptor: the LLM's pooled states, normalised only if CLIP's follow them."""

    states: CaptionLLM | FusedStates
    tokenize: CaptionTokenizer
    device: str

    @property
    def width(self) -> int:
        return self.states.width

    @property
    def clip_width(self) -> int:
        """Number of columns at the end that are CLIP's."""
        return self.states.clip.width if isinstance(self.states, FusedStates) else 0

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embed captions: float32 ``[n, width]``."""
        lengths = self.tokenize.count(texts)
        pooled = embed_by_length(lengths, EMBED_BATCH, lambda rows: self._pooled([texts[row] for row in rows]))
        vectors: np.ndarray = pooled.float().cpu().numpy()
        return vectors

    def unit(self, texts: Sequence[str]) -> np.ndarray:
        """Embed captions to compare them with each other: float32 ``[n, width]``, L2-normalised."""
        vectors = self(texts)
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def _pooled(self, texts: Sequence[str]) -> torch.Tensor:
        tokens = self.tokenize(texts)
        states: torch.Tensor = self.states(*(torch.from_numpy(array).to(self.device) for array in tokens))
        return states


def clip_identity(clip: TextConfig | None) -> str:
    """Source and fingerprint of a CLIP text tower, as caption stores name it; empty for none."""
    if clip is None:
        return ""
    source = f"open_clip:{clip.architecture}/{clip.weights}" if clip.library == "open_clip" else clip.weights
    if source is not None and not pin_is_known(source):
        fetch(source)
    return f"{source} ({text_fingerprint(clip)})"


def write_llm(folder: Path, text: TextConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Write the folder except for the tokenizer; ``tensors`` are named as in a model folder."""
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")
    value = {"schema_version": SCHEMA_VERSION, "text": asdict(text)}
    (folder / "llm.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_llm(folder: Path) -> LLMFolder:
    """Read ``llm.json``, or the LLM's part of the configuration of a model; no weights are loaded.

    Raises:
        ModelError: stage 1 did not write the folder, or did not finish; or it is that of a model without an LLM.
    """
    path = folder / "llm.json"
    if not path.exists() and (folder / "config.json").exists():
        return _llm_of_model(folder)
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ModelError(f"{path} has schema version {raw['schema_version']}; this version reads {SCHEMA_VERSION}.")
        text = text_from_mapping(raw["text"])
        decisive = [raw["text"], file_sha256(folder / "model.safetensors"), file_sha256(folder / "tokenizer.json")]
    except OSError as error:
        missing = Path(error.filename).name if error.filename else "llm.json"
        raise ModelError(
            f"{folder} is not a caption-tuned LLM: it has no {missing}.", hint="Create one with train captions."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} does not describe a caption-tuned LLM: {error!r}.") from error
    return LLMFolder(folder, text, json_sha256(decisive)[:16])


def _llm_of_model(folder: Path) -> LLMFolder:
    path = folder / "config.json"
    text = replace(ModelConfig.read(path).text, adaptor=None, clip=None)
    if text.library != "llm":
        raise ModelError(f"{path} describes a model whose text tower is that of {text.library}, not an LLM.")
    try:
        decisive = [asdict(text), file_sha256(folder / "model.safetensors"), file_sha256(folder / "tokenizer.json")]
    except OSError as error:
        raise ModelError(f"{folder} cannot be read as a model with an LLM: {first_line(error)}.") from error
    if text.weights is not None and text.weights.startswith("dir:"):  # the model that is trained has another folder
        text = replace(text, weights=f"dir:{(folder / text.weights.removeprefix('dir:')).resolve()}")
    return LLMFolder(folder, text, json_sha256(decisive)[:16])
