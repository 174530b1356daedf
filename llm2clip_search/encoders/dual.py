"""Published dual encoders: any model of open_clip, and CLIP and SigLIP models of transformers."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.encoders.cache import cache_dir
from llm2clip_search.encoders.clip_byte_pairs import architecture_config, open_clip_folder
from llm2clip_search.encoders.config import ModelConfig, PreprocessConfig, TextConfig, VisionConfig
from llm2clip_search.encoders.hub import confirm_blobs, find_repository
from llm2clip_search.encoders.image_processor import read_image_processor
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.stated_sizes import read_config
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError

SIGLIP2_VOCABULARY = 256_000
"""Size of Gemma's vocabulary, which distinguishes SigLIP 2 from SigLIP (32,000, or 250,000 if multilingual): both have
model type ``siglip``. SigLIP's tokenizer lower-cases by itself; Gemma's, which SigLIP 2's folders name, does not."""


_KEPT_FORMAT = 1


def create_open_clip(architecture: str, weights: str) -> Any:
    """An open_clip model; ``weights`` is a pretrained tag or the path of a checkpoint.

    Raises:
        ModelError: the tag is unknown, or weights cannot be fetched or were damaged in the cache.
    """
    ensure_torchvision()
    import open_clip

    try:
        # weights_only is open_clip's default, and stated because a checkpoint's code must never run.
        model = open_clip.create_model(architecture, pretrained=weights, weights_only=True)
    except Exception as error:  # open_clip raises RuntimeError, OSError and errors of the hub's client
        raise ModelError(
            f"open_clip:{architecture}/{weights} could not be loaded ({type(error).__name__}:"
            f" {str(error).splitlines()[0][:160] if str(error) else 'no reason given'})."
        ) from error
    _confirm_open_clip(architecture, weights)
    return model.eval()


def _confirm_open_clip(architecture: str, weights: str) -> None:
    """Compare the file that open_clip has loaded with its hash; open_clip does so for those that it fetches by URL."""
    from open_clip.pretrained import get_pretrained_cfg

    repo, _, _ = (get_pretrained_cfg(architecture, weights) or {}).get("hf_hub", "").rpartition("/")
    if repo and (folder := find_repository(repo, None, ())):
        confirm_blobs(folder, ("*.safetensors", "*.bin", "*.pt"))


def open_clip_model(reference: str) -> ModelConfig:
    """The configuration of ``ARCHITECTURE/TAG`` or ``ARCHITECTURE/PATH``; weights are not read.

    It is kept in the cache, because importing open_clip takes longer than a query.

    Raises:
        ModelError: open_clip does not have the architecture, or the reference names no weights.
    """
    path = _kept_configuration(reference)
    if path is not None and path.exists():
        with contextlib.suppress(ModelError):  # written by another version
            return ModelConfig.read(path)
    config = _describe_open_clip(reference)
    if path is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written is no error
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(config.to_dict()).encode())
    return config


def _kept_configuration(reference: str) -> Path | None:
    """File of a configuration of this version of open_clip; None for an architecture that a program has added."""
    architecture = architecture_config(reference.partition("/")[0])
    if architecture is None:
        return None
    tags = (open_clip_folder() / "pretrained.py").stat()
    key = [_KEPT_FORMAT, reference, architecture, tags.st_size, tags.st_mtime_ns]
    return cache_dir() / "open-clip" / f"{json_sha256(key)[:32]}.json"


def _describe_open_clip(reference: str) -> ModelConfig:
    ensure_torchvision()
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    architecture, _, weights = reference.partition("/")
    raw = open_clip.get_model_config(architecture)
    if raw is None:
        raise ModelError(
            f"open_clip has no architecture {architecture!r}; open_clip.list_models() lists those it has.",
            hint="'llm2clip-search models list' names the best-known ones.",
        )
    if not weights:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)[:5])
        raise ModelError(
            f"open_clip:{architecture} names no weights; the form is open_clip:{architecture}/TAG"
            f"{f' (some tags are {known})' if known else ''}, or a checkpoint's path in place of the tag."
        )
    pretrained = get_pretrained_cfg(architecture, weights) or {}
    size = raw["vision_cfg"].get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return ModelConfig(
        name=f"open_clip:{reference}",
        dim=raw["embed_dim"],
        vision=VisionConfig(
            library="open_clip",
            architecture=architecture,
            weights=weights,
            preprocess=PreprocessConfig(
                height=height,
                width=width,
                resize="squash" if pretrained.get("resize_mode") == "squash" else "shortest",
                interpolation=pretrained.get("interpolation", "bicubic"),
                mean=tuple(pretrained.get("mean", open_clip.OPENAI_DATASET_MEAN)),
                std=tuple(pretrained.get("std", open_clip.OPENAI_DATASET_STD)),
            ),
        ),
        text=TextConfig(
            library="open_clip",
            architecture=architecture,
            weights=weights,
            max_tokens=raw["text_cfg"].get("context_length", 77),
            attention="causal",
            pooling="last",
        ),
    )


def transformers_model(folder: Path, *, source: str) -> ModelConfig:
    """The configuration of a transformers CLIP or SigLIP folder; weights are not read.

    Args:
        source: the folder's source, which the configuration names for both towers.

    Raises:
        ModelError: the folder holds another kind of model, or does not state its preprocessing.
    """
    raw = read_config(folder / "config.json")
    kind = raw.get("model_type")
    if kind not in ("clip", "siglip"):
        raise ModelError(
            f"{source} is a {kind!r} model; supported dual encoders of transformers are clip and siglip (which includes"
            " SigLIP 2 with a fixed image size)."
        )
    ensure_torchvision()
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    dim = config.projection_dim if kind == "clip" else config.vision_config.hidden_size
    return ModelConfig(
        name=source,
        dim=dim,
        vision=VisionConfig(
            library="transformers",
            architecture="",
            weights=source,
            preprocess=read_image_processor(folder),
        ),
        text=TextConfig(
            library="transformers",
            weights=source,
            max_tokens=config.text_config.max_position_embeddings,
            attention="causal" if kind == "clip" else "bidirectional",
            pooling="last",
            lower_case=kind == "siglip" and config.text_config.vocab_size == SIGLIP2_VOCABULARY,
        ),
        licence=str(raw.get("license", "unknown")),
    )


def clip_projection(kind: str, raw: Mapping[str, Any]) -> dict[str, int]:
    """The width of CLIP's projections, which is stated for both towers together but needed to load each."""
    return {"projection_dim": raw["projection_dim"]} if kind == "clip" and "projection_dim" in raw else {}


def text_tower_of(vision: VisionConfig) -> TextConfig:
    """The text tower that a CLIP vision tower was trained with; weights are not read.

    Raises:
        ModelError: the vision tower has none.
    """
    if vision.library == "open_clip":
        return open_clip_model(f"{vision.architecture}/{vision.weights}").text
    if vision.library == "transformers" and vision.weights is not None:
        return transformers_model(fetch(vision.weights).path, source=vision.weights).text
    raise ModelError(
        f"The vision tower {vision.architecture} of {vision.library} has no text tower of its own; those of open_clip,"
        " and of CLIP and SigLIP models of transformers, have one."
    )
