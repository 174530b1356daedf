"""What ``config.json`` of a model folder says, as frozen dataclasses.

A model is a folder: ``config.json`` (this schema), ``model.safetensors`` with the tensors this
project trained (prefixes ``vision.`` and ``text.``), tokenizer files, and a model card. Base
weights that others publish are named by source (see `sources`) and stay where they are.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from llm2clip_search.errors import ModelError

SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How an upright RGB image becomes the tower's uint8 pixels, and how those are normalised."""

    height: int
    """Rows of the tower's input."""
    width: int
    """Columns of the tower's input."""
    resize: Literal["shortest", "squash"] = "shortest"
    """``shortest`` scales the shorter side to ``resize_to`` and crops the centre; ``squash`` scales
    both sides to the input size."""
    resize_to: int = 0
    """Length of the shorter side before the crop, pixels; 0 means the input's own shorter side."""
    crop_rounding: Literal["nearest", "down"] = "nearest"
    """Where the crop begins if an odd number of pixels is left over: at the nearest even one, as torchvision does
    (open_clip, timm, OpenAI's own code), or at the lower one, as the processors of transformers do."""
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Per channel, on a scale where white is 1."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def shortest(self) -> int:
        """Pixels of an image's shorter side that the tower can make use of."""
        return self.resize_to or min(self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision tower: a published backbone and, for towers of ours, a projection."""

    library: Literal["timm", "open_clip", "transformers"]
    architecture: str
    """The library's own model name; empty for transformers, whose folder says it."""
    weights: str | None
    """Source of the backbone's weights; None when they are in this folder's ``model.safetensors``."""
    weights_by_order: bool = False
    """Match tensors to parameters by order and shape: for ports of one architecture that named
    their tensors differently."""
    pooled_modules: tuple[str, ...] = ()
    """Of a timm backbone: modules, such as ``blocks.5``, whose outputs averaged over the image stand behind its
    pooled features. The last layers of a classifier keep what tells its classes apart; those before it also hold
    what captions speak of."""
    projection: bool = False
    """Whether ``vision.projection`` (linear) follows the backbone."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The library's own configuration of a tower whose weights lie in this folder (transformers: that of
    ``CLIPVisionConfig``; timm: keywords of ``create_model``); empty where the library knows it by name."""
    preprocess: PreprocessConfig


@dataclass(frozen=True, kw_only=True)
class AdaptorConfig:
    """The head between the LLM's pooled state and the shared space (LLM2CLIP's ``TextProj``)."""

    blocks: int = 4
    """Residual blocks of LayerNorm - Linear - GELU - Linear."""
    expansion: int = 2
    """Width of a block's inner layer, in multiples of the LLM's hidden size."""
    normalises: bool = True
    """Whether the input is L2-normalised first, as in every published variant but SigLIP 2's."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text tower: a decoder LLM with pooling and adaptor, or a classic CLIP text tower."""

    library: Literal["llm", "open_clip", "transformers"]
    architecture: str = ""
    weights: str | None
    """Source of the weights; None when they are in this folder's ``model.safetensors``."""
    max_tokens: int
    """Tokens that the tower reads, special tokens included."""
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    pooling: Literal["mean", "last"] = "mean"
    instruction: str = ""
    """Prefix that the LLM reads but that is not pooled."""
    suffix: str = ""
    """Text behind the caption that is read and pooled, such as ``<|eot_id|>``; a cut leaves it whole."""
    lower_case: bool = False
    """Whether captions are lower-cased before they are tokenised. SigLIP 2 was trained on lower-case text and loses
    seven points of Flickr30k's recall without it (issue 166 of google-research/big_vision); False where the library's
    tokenizer lower-cases by itself, as open_clip's do."""
    hidden_layers: tuple[int, ...] = (-1,)
    """Which hidden states are pooled and concatenated: -1 is the last, after the final norm; n is the
    n-th block's output. Blocks behind the highest are not run."""
    standardised: bool = False
    """Whether pooled states are brought to mean 0 and deviation 1, dimension by dimension, by statistics
    that the model folder holds: a few dimensions of an LLM's states are hundreds of times larger than
    the others, and a cosine sees little else."""
    adaptor: AdaptorConfig | None = None
    clip: "TextConfig | None" = None
    """Of an LLM tower: a classic CLIP text tower whose embedding stands beside the LLM's pooled state before
    the adaptor, both L2-normalised (Huang et al., arXiv 2411.04997, ablation of stage 2, row d: better by 0.8
    and 0.7 points). What a caption has beyond that tower's tokens, only the LLM reads."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything about a model that is not a tensor."""

    schema_version: int = SCHEMA_VERSION
    name: str
    dim: int
    """Width of the shared space."""
    querybank: float = 0.0
    """Strength of the querybank normalisation behind both towers, see `querybank`; 0 has none. At 1/2 scores rank as
    the mean of two log probabilities does: of the caption given the image, and of the image given the caption."""
    vision: VisionConfig
    text: TextConfig
    licence: str = "unknown"
    training_data: tuple[str, ...] = ()
    """One line a data set: name, split, source and terms."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.querybank < math.inf or self.tower_dim < 1:
            raise ValueError(f"a querybank of {self.querybank!r} in {self.dim} dimensions")

    @property
    def tower_dim(self) -> int:
        """Width of what the towers themselves give; the querybank's two coordinates stand behind it."""
        return self.dim - 2 if self.querybank else self.dim

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> "ModelConfig":
        """Read ``config.json``.

        Raises:
            ModelError: not JSON, a newer schema, or a key that this version does not know.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} is not a readable model configuration: {error}.") from error
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise ModelError(f"{path} has schema version {version}; this version reads {SCHEMA_VERSION}.")
        try:
            return _from_mapping(raw)
        except (TypeError, KeyError, ValueError) as error:
            raise ModelError(f"{path} does not describe a model: {error}.") from error


def _from_mapping(raw: Mapping[str, Any]) -> ModelConfig:
    vision = dict(raw["vision"])
    preprocess = dict(vision.pop("preprocess"))
    for key in ("mean", "std"):
        if key in preprocess:
            preprocess[key] = tuple(preprocess[key])
    known = {each.name for each in fields(ModelConfig)}
    rest = {name: raw[name] for name in known if name in raw}
    unknown = set(raw) - known
    if unknown:
        raise KeyError(f"unknown keys {sorted(unknown)}")
    if "pooled_modules" in vision:
        vision["pooled_modules"] = tuple(vision["pooled_modules"])
    rest |= {
        "vision": VisionConfig(**vision, preprocess=PreprocessConfig(**preprocess)),
        "text": text_from_mapping(raw["text"]),
        "training_data": tuple(raw.get("training_data", ())),
    }
    return ModelConfig(**rest)


def text_from_mapping(raw: Mapping[str, Any]) -> TextConfig:
    """A text tower's part of the configuration.

    Raises:
        TypeError: a key that this version does not know, or one that is missing.
    """
    text = dict(raw)
    if "hidden_layers" in text:
        text["hidden_layers"] = tuple(text["hidden_layers"])
    adaptor, clip = text.pop("adaptor", None), text.pop("clip", None)
    return TextConfig(
        **text,
        adaptor=AdaptorConfig(**adaptor) if adaptor else None,
        clip=text_from_mapping(clip) if clip else None,
    )
