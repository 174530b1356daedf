"""Vision towers of timm, open_clip and transformers behind one module: uint8 pixels to unit vectors."""

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
from llm2clip_search.encoders.stated_sizes import read_config
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError


class VisionTower(nn.Module):
    """Normalisation of pixels, backbone and projection.

    Normalising inside the module keeps preprocessing at one byte per value and makes normalisation part of an export.
    """

    mean: torch.Tensor
    std: torch.Tensor
    precision = torch.float32
    """Precision of backbone and projection."""

    def __init__(self, backbone: nn.Module, projection: nn.Module, preprocess: PreprocessConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, -1, 1, 1) * 255.0, persistent=False)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 ``[n, H, W, 3]`` to the backbone's input, ``[n, 3, H, W]``."""
        return (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std

    def place(self, placement: Placement) -> "VisionTower":
        """Move the weights. Pixels are normalised in float32, because the 8 bits of bfloat16 would shift them."""
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
    """A transformers vision model that returns only its pooled output."""

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
    """A timm backbone whose pooled features are followed by those of inner modules, averaged over the image."""

    def __init__(self, model: nn.Module, modules: Sequence[str]) -> None:
        """Raises ModelError if the backbone has no module of a name."""
        super().__init__()
        names = dict(model.named_modules())
        if unknown := [name for name in modules if name not in names]:
            raise ModelError(f"The vision backbone has no module {unknown[0]!r}, which 'pooled_modules' names.")
        self.model, self.modules_pooled = model, tuple(modules)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[n, 3, H, W]`` to ``[n, width]``: the backbone's features, then those of each module."""
        thread = threading.get_ident()  # hooks see the calls of all threads, which may run the tower at once
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
        # Convolutions return [n, channels, rows, columns], transformers [n, tokens, channels].
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

    Args:
        dim: width of the embeddings.
        folder: the model folder, where relative sources start.
        tensors: the model folder's tensors under ``vision.``, prefix removed; they are assigned without a copy.

    Raises:
        ModelError: weights cannot be fetched or do not fit; missing and unexpected ones are named.
    """
    ensure_torchvision()
    backbone = _BACKBONES[config.library](config, folder).to(placement.dtype)
    own = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    if config.weights is not None:  # trained tensors replace published ones
        own = {**backbone.state_dict(), **own} if own else {}
    if own or config.weights is None:
        load_exactly(backbone, own, "vision backbone", device=placement.device)
    projection: nn.Module = nn.Identity()
    if config.projection:
        weight = tensors.get("projection.weight")
        if weight is None or weight.shape[0] != dim:
            found = "none" if weight is None else str(list(weight.shape))
            raise ModelError(f"The vision projection needs a weight with {dim} output dimensions, but has {found}.")
        bias = "projection.bias" in tensors  # OpenAI's projections have no bias
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
    # Published classifiers include their head: load into a model that has one, then remove it.
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
    """A timm backbone, wrapped if its configuration pools inner modules.

    Raises:
        ModelError: the backbone has no module of a name in ``pooled_modules``.
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
        # Some versions of transformers wrap the tower in another module, which does not change names in a folder.
        return _Pooled(getattr(tower, "vision_model", tower))
    path = fetch(config.weights, relative_to=folder).path
    raw = read_config(path / "config.json")
    kind = raw.get("model_type", "")
    loader = getattr(transformers, _CLASSES.get(kind, "AutoModel"))
    return _Pooled(
        loader.from_pretrained(path, local_files_only=True, use_safetensors=True, **clip_projection(kind, raw))
    )


def empty_transformers_backbone(config: VisionConfig, path: Path | None) -> nn.Module:
    """A backbone of transformers with random weights, on the current default device.

    Args:
        path: folder of the model, of which only ``config.json`` is read; None for one that the configuration's
            ``options`` describe.

    Raises:
        ModelError: ``config.json`` cannot be read.
    """
    import transformers

    if path is None:
        tower: Any = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**config.options))
        return _Pooled(getattr(tower, "vision_model", tower))
    raw = read_config(path / "config.json")
    kind = raw.get("model_type", "")
    if kind not in _CLASSES:
        stated = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        return _Pooled(transformers.AutoModel.from_config(stated))
    tower = getattr(transformers, _CLASSES[kind])
    stated = tower.config_class.from_pretrained(path, local_files_only=True, **clip_projection(kind, raw))
    return _Pooled(tower(stated))


_CLASSES = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}
"""Classes of transformers for the vision towers of its dual encoders, by the type of the model."""
_BACKBONES = {
    "timm": _timm_backbone,
    "open_clip": _open_clip_backbone,
    "transformers": _transformers_backbone,
}
