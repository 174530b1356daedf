"""Training parts of a vision tower: depth from names, learning rates by depth, and the frozen prefix."""

import pytest
import torch

from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from llm2clip_search.training.tasks.lora import LoraRecipe
from llm2clip_search.training.tasks.vision_training import (
    VisionTraining,
    blocks_of,
    depth_of,
    mark_trained,
    split_backbone,
    trained_groups,
    trained_tensors,
)


def tower(name: str) -> torch.nn.Module:
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    module: torch.nn.Module = timm.create_model(name, num_classes=0)
    return module.eval()


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("conv_stem.weight", -1.0),
        ("trunk.patch_embed.proj.weight", -1.0),
        ("embeddings.position_embedding.weight", -1.0),
        ("blocks.5.0.conv_pw.weight", 5.0),
        ("transformer.resblocks.11.attn.in_proj_weight", 11.0),
        ("model.vision_model.encoder.layers.3.mlp.fc1.bias", 3.0),
        ("visual.layer4.2.bn2.weight", 4.0),
        ("stages.1.blocks.7.norm.weight", 1.0),
        ("conv_head.weight", float("inf")),
        ("trunk.norm.weight", float("inf")),
        ("ln_post.bias", float("inf")),
        ("proj", float("inf")),
    ],
)
def test_depth_is_read_from_names(name: str, depth: float) -> None:
    assert depth_of(name) == depth


def test_the_last_blocks_are_trained_at_rates_that_fall_with_depth() -> None:
    backbone = tower("test_vit")  # six blocks
    training = VisionTraining(mode="last", blocks=2, scale=0.5, layer_decay=0.8)
    mark_trained(backbone, training, 0)
    before, last = trained_groups(backbone, training)
    assert [before.scale, last.scale] == pytest.approx([0.4, 0.5])
    assert {name.split(".")[2] for name in before.parameters} == {"4"}
    assert "backbone.norm.weight" in last.parameters
    assert trained_tensors(backbone).keys() == {
        n.removeprefix("backbone.") for n in (*before.parameters, *last.parameters)
    }


def test_frozen_trains_nothing_and_full_everything() -> None:
    for mode, count in (("frozen", 0), ("full", len(list(tower("test_vit").parameters())))):
        backbone = tower("test_vit")
        training = VisionTraining(mode=mode)  # type: ignore[arg-type]
        mark_trained(backbone, training, 0)
        assert sum(len(group.parameters) for group in trained_groups(backbone, training)) == count


def test_low_rank_updates_initially_change_nothing_and_are_merged() -> None:
    backbone = tower("test_vit")
    x = torch.randn(2, 3, 160, 160)
    expected = backbone(x)
    names = {name for name, _ in backbone.named_parameters()}
    training = VisionTraining(mode="lora", lora=LoraRecipe(rank=2, targets=("qkv",)))
    mark_trained(backbone, training, 0)
    torch.testing.assert_close(backbone(x), expected)
    groups = trained_groups(backbone, training)
    assert all("lora_" in name for group in groups for name in group.parameters)
    for group in groups:
        for parameter in group.parameters.values():
            torch.nn.init.normal_(parameter, std=0.1)
    moved = backbone(x)
    changed = trained_tensors(backbone)
    assert changed.keys() <= names
    plain = tower("test_vit")
    plain.load_state_dict(plain.state_dict() | changed)
    torch.testing.assert_close(plain(x), moved, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(moved, expected)


def test_a_convolutional_tower_is_split_before_its_trained_blocks() -> None:
    backbone = tower("test_efficientnet")
    mark_trained(backbone, VisionTraining(mode="last", blocks=2), 0)
    x = torch.randn(2, 3, 64, 64)
    parts = split_backbone(backbone, x)
    assert parts is not None
    start, rest = parts
    assert not any(parameter.requires_grad for parameter in start(x))
    out = rest(start(x))
    torch.testing.assert_close(out, backbone(x))
    out.sum().backward()
    shared = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    assert shared
    assert all(parameter.grad is not None for parameter in shared), "both share their parameters"


def test_a_transformer_is_not_split() -> None:
    """Position embeddings are added between its modules, which the check on real input detects."""
    backbone = tower("test_vit")
    mark_trained(backbone, VisionTraining(mode="last", blocks=2), 0)
    assert split_backbone(backbone, torch.randn(2, 3, 160, 160)) is None


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ModelError, match="has 6 blocks, but the last 7"):
        mark_trained(tower("test_vit"), VisionTraining(mode="last", blocks=7), 0)
    with pytest.raises(ValueError, match="'last' cannot have 0 blocks"):
        VisionTraining(mode="last")
    with pytest.raises(ValueError, match="'lora'"):
        VisionTraining(mode="lora")


def test_blocks_are_found_for_sharding() -> None:
    assert len(blocks_of(tower("test_vit"))) == 6
