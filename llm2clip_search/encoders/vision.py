"""Vision towers of timm, open_clip and transformers as one module: uint8 pixels to unit vectors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.config import PreprocessConfig, VisionConfig
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError

_INTERPOLATIONS: dict[int, Literal["lanczos", "bilinear", "bicubic"]] = {
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}


class VisionTower(nn.Module):
    """Backbone and projection behind the normalisation of pixels.

    Normalising inside the module keeps preprocessing in threads at one byte a value and makes it
    part of what is exported.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, projection: nn.Module, preprocess: PreprocessConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, -1, 1, 1) * 255.0, persistent=False)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 ``[n, H, W, 3]`` to what the backbone takes, ``[n, 3, H, W]``."""
        return (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 ``[n, H, W, 3]`` to the backbone's pooled features ``[n, width]``."""
        pooled: torch.Tensor = self.backbone(self.normalise(pixels))
        return pooled

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 ``[n, H, W, 3]`` to L2-normalised ``[n, dim]``."""
        return F.normalize(self.projection(self.features(pixels)), dim=-1)


class _Pooled(nn.Module):
    """A transformers vision model, reduced to its pooled output tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        out = self.model(pixel_values=pixel_values)
        for name in ("image_embeds", "pooler_output"):
            if (value := getattr(out, name, None)) is not None:
                pooled: torch.Tensor = value
                return pooled
        states: torch.Tensor = out.last_hidden_state
        return states[:, 0]


def build_vision_tower(
    config: VisionConfig, *, dim: int, folder: Path | None, tensors: Mapping[str, torch.Tensor]
) -> VisionTower:
    """Build the tower and load its weights; the text tower is not touched.

    ``tensors`` are those of the model folder whose names began with ``vision.``, prefix removed.

    Raises:
        ModelError: weights that cannot be fetched or do not fit, naming what is missing or extra.
    """
    ensure_torchvision()
    backbone = _BACKBONES[config.library](config, folder)
    own = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    if config.weights is not None:  # what training changed lies over the published weights
        own = {**backbone.state_dict(), **own} if own else {}
    if own or config.weights is None:
        load_exactly(backbone, own, "vision backbone")
    projection: nn.Module = nn.Identity()
    if config.projection:
        weight = tensors.get("projection.weight")
        if weight is None or weight.shape[0] != dim:
            found = "none" if weight is None else str(list(weight.shape))
            raise ModelError(f"The vision projection should map to {dim} dimensions, but its weight is {found}.")
        projection = nn.Linear(weight.shape[1], weight.shape[0])
        head = {n.removeprefix("projection."): t for n, t in tensors.items() if n.startswith("projection.")}
        load_exactly(projection, head, "vision projection")
    return VisionTower(backbone, projection, config.preprocess).eval()


def load_exactly(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Load a state dict with every key accounted for.

    Raises:
        ModelError: a missing or unexpected key, or another shape; each is named.
    """
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise ModelError(f"Weights of the {what} do not fit: missing {missing[:5]}, unexpected {extra[:5]}.")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ModelError(
                f"Weight {name} of the {what} is {list(tensor.shape)}, but {list(wanted[name].shape)} is needed."
            )
    module.load_state_dict(dict(tensors))


def _timm_backbone(config: VisionConfig, folder: Path | None) -> nn.Module:
    import timm

    headless: Any = timm.create_model(config.architecture, pretrained=False, num_classes=0)
    if config.weights is None:
        return cast(nn.Module, headless)
    # Published classifiers come with their head: load into a model that has one, then drop it.
    state = read_state_dict(fetch(config.weights, relative_to=folder).path)
    bias = next(reversed(state.values())) if config.weights_by_order else None
    if bias is None:
        bias = state.get(f"{headless.default_cfg['classifier']}.bias", torch.empty(0))
    full: Any = timm.create_model(config.architecture, pretrained=False, num_classes=len(bias))
    if config.weights_by_order and len(state) == len(full.state_dict()):
        state = dict(zip(full.state_dict(), state.values(), strict=True))
    load_exactly(full, state, f"vision backbone {config.architecture}")
    full.reset_classifier(0)
    return cast(nn.Module, full)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file or of a pickle read with ``weights_only``: no code runs."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _open_clip_backbone(config: VisionConfig, folder: Path | None) -> nn.Module:
    from llm2clip_search.encoders.dual import create_open_clip

    assert config.weights is not None, "open_clip towers are resolved with their weights"
    visual: nn.Module = create_open_clip(config.architecture, config.weights).visual
    return visual


def _transformers_backbone(config: VisionConfig, folder: Path | None) -> nn.Module:
    import transformers

    if config.weights is None:
        raise ModelError("A transformers vision tower needs 'weights', the source of its folder.")
    path = fetch(config.weights, relative_to=folder).path
    raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
    kind = raw.get("model_type", "")
    classes = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}
    loader = getattr(transformers, classes.get(kind, "AutoModel"))
    return _Pooled(
        loader.from_pretrained(path, local_files_only=True, use_safetensors=True, **clip_projection(kind, raw))
    )


_BACKBONES = {
    "timm": _timm_backbone,
    "open_clip": _open_clip_backbone,
    "transformers": _transformers_backbone,
}


def clip_projection(kind: str, raw: Mapping[str, Any]) -> dict[str, int]:
    """The width of CLIP's projections: stated for both towers together, but loaded with each."""
    return {"projection_dim": raw["projection_dim"]} if kind == "clip" and "projection_dim" in raw else {}


def transformers_preprocess(folder: Path) -> PreprocessConfig:
    """The preprocessing that a transformers folder's ``preprocessor_config.json`` asks for.

    Raises:
        ModelError: no such file, or sizes it does not state.
    """
    path = folder / "preprocessor_config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        size, crop = raw["size"], raw.get("crop_size")
        size = {"shortest_edge": size} if isinstance(size, int) else size
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
        crops = raw.get("do_center_crop", crop is not None) and crop is not None
        target = crop if crops else size
        return PreprocessConfig(
            height=target["height"] if "height" in target else target["shortest_edge"],
            width=target["width"] if "width" in target else target["shortest_edge"],
            resize="shortest" if "shortest_edge" in size else "squash",
            resize_to=size.get("shortest_edge", 0),
            interpolation=_INTERPOLATIONS[raw.get("resample", 3)],
            mean=tuple(raw["image_mean"]),
            std=tuple(raw["image_std"]),
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} does not state the preprocessing: {error!r}.") from error
