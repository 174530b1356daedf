"""The schema of a model folder's ``config.json``, as frozen dataclasses.

A model is a folder: ``config.json``, ``model.safetensors`` with the tensors that were trained here or converted
(prefixes ``vision.`` and ``text.``), tokenizer files, and a model card. Base weights that others publish are not
copied but named by their source (see `sources`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from llm2clip_search.base.files import replace_file
from llm2clip_search.encoders.calibration import Calibration
from llm2clip_search.encoders.stated_sizes import check_sizes
from llm2clip_search.errors import ModelError

SCHEMA_VERSION = 2

Overlong = Literal["keep_suffix", "llm2vec"]


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How an upright RGB image is resized to the tower's uint8 pixels, and how these are normalised."""

    height: int
    """Rows of the tower's input."""
    width: int
    """Columns of the tower's input."""
    resize: Literal["shortest", "squash"] = "shortest"
    """``shortest`` scales the shorter side to ``resize_to`` and crops the centre; ``squash`` scales both sides to the
    input size, whatever the aspect ratio."""
    resize_to: int = 0
    """Length of the shorter side before the crop, in pixels; 0 means the shorter side of the input."""
    crop_rounding: Literal["nearest", "down"] = "nearest"
    """How the crop's start is rounded if an odd number of pixels is left over: to the nearest even number, as
    torchvision does (open_clip, timm, OpenAI's code), or down, as the processors of transformers do."""
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    """Filter of the resize."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Per channel, where white is 1."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Per channel, likewise."""

    @property
    def shortest(self) -> int:
        """Length of an image's shorter side, in pixels, beyond which the tower gains no detail."""
        return self.resize_to or min(self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision tower: a published backbone and, if it was trained here or converted, a projection."""

    library: Literal["timm", "open_clip", "transformers"]
    """Library that defines the architecture."""
    architecture: str
    """The library's model name; empty for transformers, whose folder states it."""
    weights: str | None
    """Source of the backbone's weights; None if they are in this folder's ``model.safetensors``."""
    weights_by_order: bool = False
    """Match tensors to parameters by order and shape, for ports of an architecture with other tensor names."""
    pooled_modules: tuple[str, ...] = ()
    """Modules of a timm backbone, such as ``blocks.5``, whose outputs are averaged over the image and appended to its
    pooled features. A classifier's last layers discard detail that captions mention and earlier ones still have."""
    projection: bool = False
    """Whether ``vision.projection`` (linear) follows the backbone."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The library's configuration of a tower whose weights are in this folder (transformers: ``CLIPVisionConfig``;
    timm: keyword arguments of ``create_model``); empty if ``architecture`` says it all."""
    preprocess: PreprocessConfig
    """How images become its input."""


@dataclass(frozen=True, kw_only=True)
class AdaptorConfig:
    """The network between the LLM's pooled state and the shared space (LLM2CLIP's ``TextProj``)."""

    blocks: int = 4
    """Number of residual blocks of LayerNorm - Linear - GELU - Linear."""
    expansion: int = 2
    """Width of a block's inner layer, in multiples of the LLM's hidden size."""
    normalises: bool = True
    """Whether the input is L2-normalised first, as in every published variant except SigLIP 2's."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text tower: a decoder LLM with pooling and adaptor, or a classic CLIP text tower."""

    library: Literal["llm", "open_clip", "transformers"]
    """A decoder LLM, or the library of a classic text tower."""
    architecture: str = ""
    """The library's model name; empty for an LLM."""
    weights: str | None
    """Source of the weights; None if they are in this folder's ``model.safetensors``."""
    max_tokens: int
    """Number of tokens that the tower reads, special tokens included."""
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    """Whether a token sees those after it."""
    pooling: Literal["mean", "last"] = "mean"
    """Mean of all states, or the last one."""
    instruction: str = ""
    """Text before the caption, which the LLM reads but which is not pooled."""
    suffix: str = ""
    """Text after the caption, such as ``<|eot_id|>``, which is read and pooled."""
    overlong: Overlong = "keep_suffix"
    """What is cut of a caption of more than ``max_tokens``: its own end (``keep_suffix``), or, as LLM2CLIP's repository
    does (``llm2vec``), whatever is last, the suffix first. It then pools as many states from the end as caption and
    suffix had tokens, those of the instruction too."""
    lower_case: bool = False
    """Whether captions are lower-cased before they are tokenised. SigLIP 2 was trained on lower-case text and loses
    seven points of Flickr30k's recall without it (issue 166 of google-research/big_vision); False where the library's
    tokenizer lower-cases by itself, as open_clip's do."""
    hidden_layers: tuple[int, ...] = (-1,)
    """The hidden states that are pooled and concatenated: -1 is the last one, after the final norm; n is the output of
    the n-th block. Blocks after the highest one are not run."""
    standardised: bool = False
    """Whether each dimension of the pooled states is scaled to mean 0 and standard deviation 1, with statistics stored
    in the model folder: a few dimensions of an LLM's states are hundreds of times larger than the others and would
    dominate cosines."""
    adaptor: AdaptorConfig | None = None
    """The network behind an LLM; None for a classic text tower."""
    clip: "TextConfig | None" = None
    """A classic CLIP text tower whose embedding is concatenated with the LLM's pooled state before the adaptor, both
    L2-normalised (Huang et al., arXiv 2411.04997, ablation of stage 2, row d: better by 0.8 and 0.7 points). The part
    of a caption beyond that tower's tokens is read only by the LLM."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything about a model that is not a tensor."""

    schema_version: int = SCHEMA_VERSION
    name: str
    """Name of the model."""
    dim: int
    """Width of the shared space."""
    querybank: float = 0.0
    """Strength of the querybank normalisation after both towers, see `querybank`; 0 disables it. At 1/2, scores rank
    like the mean of two log probabilities: that of the caption given the image and that of the image given the
    caption."""
    vision: VisionConfig
    """The vision tower."""
    text: TextConfig
    """The text tower."""
    licence: str = "unknown"
    """Licence of the model, those of its parts included."""
    training_data: tuple[str, ...] = ()
    """One line per data set: name, split, source and terms."""
    calibration: Calibration | None = None
    """How scores become probabilities; None for a model that was not calibrated."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.querybank < math.inf or self.tower_dim < 1:
            raise ValueError(f"a querybank of {self.querybank!r} in {self.dim} dimensions")

    @property
    def tower_dim(self) -> int:
        """Output width of the towers, without the two dimensions that querybank normalisation adds."""
        return self.dim - 2 if self.querybank else self.dim

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> "ModelConfig":
        """Read ``config.json``.

        Raises:
            ModelError: the file is not JSON, has another schema version, has a key that this version does not know, or
                states a size that no model has.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{path} is not a readable model configuration: {error}.") from error
        check_sizes(raw, path)
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
        "calibration": _calibration(raw.get("calibration")),
    }
    return ModelConfig(**rest)


def _calibration(raw: Mapping[str, Any] | None) -> Calibration | None:
    return None if raw is None else Calibration(**dict(raw) | {"fitted_on": tuple(raw.get("fitted_on", ()))})


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Store a calibration in a model folder's ``config.json``; the rest of it stays as it is.

    Raises:
        ModelError: the configuration cannot be read or written.
    """
    path = folder / "config.json"
    ModelConfig.read(path)
    raw = json.loads(path.read_text(encoding="utf-8")) | {"calibration": asdict(calibration)}
    try:
        replace_file(path, f"{json.dumps(raw, indent=1, ensure_ascii=False)}\n".encode())
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error}.") from error


def text_from_mapping(raw: Mapping[str, Any]) -> TextConfig:
    """The text tower's part of a configuration.

    Raises:
        TypeError: a key is missing, or this version does not know it.
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
