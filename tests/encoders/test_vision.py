"""Vision backbones that also pool inner modules."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from llm2clip_search.encoders.config import PreprocessConfig, VisionConfig
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.vision import PooledModules, with_pooled_modules
from llm2clip_search.errors import ModelError


def backbone(architecture: str) -> Any:
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    return timm.create_model(architecture, pretrained=False, num_classes=0).eval()


@torch.no_grad()
def test_features_of_a_convolutional_towers_blocks_are_appended() -> None:
    model = backbone("test_efficientnet")
    pixels = torch.randn(3, 3, 64, 64)
    x = model.bn1(model.conv_stem(pixels))
    pooled = []
    for block in model.blocks:
        x = block(x)
        pooled.append(x.mean(dim=(2, 3)))
    expected = torch.cat([model(pixels), pooled[2], pooled[0]], dim=1)
    torch.testing.assert_close(PooledModules(model, ("blocks.2", "blocks.0"))(pixels), expected)


@torch.no_grad()
def test_a_transformers_blocks_are_averaged_over_tokens() -> None:
    model = backbone("test_vit")
    pixels = torch.randn(3, 3, 160, 160)
    tokens = model.patch_drop(model._pos_embed(model.patch_embed(pixels)))
    first = model.blocks[0](model.norm_pre(tokens)).mean(dim=1)
    torch.testing.assert_close(PooledModules(model, ("blocks.0",))(pixels), torch.cat([model(pixels), first], dim=1))


def test_towers_in_several_threads_do_not_mix_their_images() -> None:
    tower = PooledModules(backbone("test_efficientnet"), ("blocks.1",)).requires_grad_(False)
    images = [torch.randn(1, 3, 64, 64) for _ in range(24)]
    expected = [tower(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        for found, alone in zip(threads.map(tower, images), expected, strict=True):
            torch.testing.assert_close(found, alone)
    assert not any(module._forward_hooks for module in tower.modules())


def test_backbones_are_wrapped_only_if_modules_are_pooled() -> None:
    config = VisionConfig(
        library="timm",
        architecture="test_efficientnet",
        weights=None,
        preprocess=PreprocessConfig(height=64, width=64),
    )
    model = backbone("test_efficientnet")
    assert with_pooled_modules(model, config) is model
    with pytest.raises(ModelError, match=r"no module 'blocks\.99'"):
        PooledModules(model, ("blocks.0", "blocks.99"))
