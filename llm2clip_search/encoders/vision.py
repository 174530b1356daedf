"""Vision towers of timm, open_clip and transformers as one module: uint8 pixels to unit vectors."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.config import PreprocessConfig, VisionConfig
from llm2clip_search.encoders.dual import clip_projection, create_open_clip
from llm2clip_search.encoders.loading import load_exactly, read_state_dict, without_memory
from llm2clip_search.encoders.placement import Placement
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError


class VisionTower(nn.Module):
    """Backbone and projection behind the normalisation of pixels.

    Normalising inside the module keeps preprocessing in threads at one byte a value and makes it
    part of what is exported.
    """

    mean: torch.Tensor
    std: torch.Tensor
    precision = torch.float32
    """Of backbone and projection."""

    def __init__(self, backbone: nn.Module, projection: nn.Module, preprocess: PreprocessConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, -1, 1, 1) * 255.0, persistent=False)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 ``[n, H, W, 3]`` to what the backbone takes, ``[n, 3, H, W]``."""
        return (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std

    def place(self, placement: Placement) -> "VisionTower":
        """Move the weights; pixels stay float32 until they are normalised, which 8 bits of mantissa would shift."""
        self.backbone.to(placement.device, placement.dtype)
        self.projection.to(placement.device, placement.dtype)
        self.precision = placement.dtype
        return self.to(placement.device)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 ``[n, H, W, 3]`` to the backbone's pooled features ``[n, width]``."""
        pooled: torch.Tensor = self.backbone(self.normalise(pixels).to(self.precision))
        return pooled

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 ``[n, H, W, 3]`` to L2-normalised ``[n, dim]``."""
        return F.normalize(self.projection(self.features(pixels)).float(), dim=-1)


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


class PooledModules(nn.Module):
    """A timm backbone and, behind its pooled features, those of modules within it, averaged over the image."""

    def __init__(self, model: nn.Module, modules: Sequence[str]) -> None:
        """Raises ModelError for a name that is no module of the backbone."""
        super().__init__()
        names = dict(model.named_modules())
        if unknown := [name for name in modules if name not in names]:
            raise ModelError(f"The vision backbone has no module {unknown[0]!r}; 'pooled_modules' names its own.")
        self.model, self.modules_pooled = model, tuple(modules)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[n, 3, H, W]`` to ``[n, width]``: the backbone's own features first, then module by module."""
        thread = threading.get_ident()  # hooks are the module's, and towers may run in several threads
        found: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
                if threading.get_ident() == thread:
                    found[name] = output

            return hook

        handles = [self.model.get_submodule(n).register_forward_hook(keep(n)) for n in self.modules_pooled]
        try:
            own: torch.Tensor = self.model(pixels)
        finally:
            for handle in handles:
                handle.remove()
        # Convolutions give [n, channels, rows, columns], transformers [n, tokens, channels].
        beside = [found[n].mean(dim=(2, 3) if found[n].ndim == 4 else 1) for n in self.modules_pooled]
        return torch.cat([own, *beside], dim=1)


def build_vision_tower(
    config: VisionConfig,
    *,
    dim: int,
    folder: Path | None,
    tensors: Mapping[str, torch.Tensor],
    placement: Placement = Placement(),
) -> VisionTower:
    """Build the tower and load its weights; the text tower is not touched.

    ``tensors`` are those of the model folder whose names began with ``vision.``, prefix removed. They become
    the tower's parameters as they are, without a copy.

    Raises:
        ModelError: weights that cannot be fetched or do not fit, naming what is missing or extra.
    """
    ensure_torchvision()
    backbone = _BACKBONES[config.library](config, folder).to(placement.dtype)
    own = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    if config.weights is not None:  # what training changed lies over the published weights
        own = {**backbone.state_dict(), **own} if own else {}
    if own or config.weights is None:
        load_exactly(backbone, own, "vision backbone", device=placement.device)
    projection: nn.Module = nn.Identity()
    if config.projection:
        weight = tensors.get("projection.weight")
        if weight is None or weight.shape[0] != dim:
            found = "none" if weight is None else str(list(weight.shape))
            raise ModelError(f"The vision projection should map to {dim} dimensions, but its weight is {found}.")
        bias = "projection.bias" in tensors  # OpenAI's towers have none
        projection = nn.Linear(weight.shape[1], weight.shape[0], bias=bias, device="meta", dtype=placement.dtype)
        head = {n.removeprefix("projection."): t for n, t in tensors.items() if n.startswith("projection.")}
        load_exactly(projection, head, "vision projection", device=placement.device)
    return VisionTower(backbone, projection, config.preprocess).place(placement).eval()


def _timm_backbone(config: VisionConfig, folder: Path | None) -> nn.Module:
    import timm

    headless: Any = without_memory(
        lambda: timm.create_model(config.architecture, pretrained=False, num_classes=0, **config.options)
    )
    if config.weights is None:
        return with_pooled_modules(headless, config)
    # Published classifiers come with their head: load into a model that has one, then drop it.
    state = read_state_dict(fetch(config.weights, relative_to=folder).path)
    bias = next(reversed(state.values())) if config.weights_by_order else None
    if bias is None:
        bias = state.get(f"{headless.default_cfg['classifier']}.bias", torch.empty(0))
    full: Any = without_memory(lambda: timm.create_model(config.architecture, pretrained=False, num_classes=len(bias)))
    if config.weights_by_order and len(state) == len(full.state_dict()):
        state = dict(zip(full.state_dict(), state.values(), strict=True))
    load_exactly(full, state, f"vision backbone {config.architecture}")
    full.reset_classifier(0)
    return with_pooled_modules(full, config)


def with_pooled_modules(backbone: nn.Module, config: VisionConfig) -> nn.Module:
    """A timm backbone as its configuration pools it.

    Raises:
        ModelError: a module that it has not.
    """
    return PooledModules(backbone, config.pooled_modules) if config.pooled_modules else backbone


def _open_clip_backbone(config: VisionConfig, folder: Path | None) -> nn.Module:
    assert config.weights is not None, "open_clip towers are resolved with their weights"
    visual: nn.Module = create_open_clip(config.architecture, config.weights).visual
    return visual


def _transformers_backbone(config: VisionConfig, folder: Path | None) -> nn.Module:
    import transformers

    if config.weights is None:
        if not config.options:
            raise ModelError("A transformers vision tower needs 'weights', the source of its folder, or 'options'.")
        stated = transformers.CLIPVisionConfig(**config.options)
        tower: Any = without_memory(lambda: transformers.CLIPVisionModel(stated))
        # Some versions wrap the tower in another module; its tensors have the same names in a folder of any.
        return _Pooled(getattr(tower, "vision_model", tower))
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
