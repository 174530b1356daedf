"""Training parts of a vision tower: depth from names, learning rates by depth, and the frozen prefix."""

import pytest
import torch

from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from llm2clip_search.training.tasks.lora import LoraRecipe, lora_tensors
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
    factors = lora_tensors(backbone)
    for name, weight in changed.items():
        up, down = (factors[name.replace(".weight", f".{each}")].float() for each in ("up", "down"))
        torch.testing.assert_close(weight, plain.state_dict()[name] + up @ down, rtol=1e-2, atol=1e-2)
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
    with pytest.raises(ValueError, match="mode 'last' needs blocks = 1 or more, not 0"):
        VisionTraining(mode="last")
    with pytest.raises(ValueError, match="blocks is -1, but it has to be at least 0"):
        VisionTraining(mode="full", blocks=-1)
    with pytest.raises(ModelError, match="no linear layers in its blocks, which mode 'lora' needs; use mode 'last'"):
        mark_trained(tower("test_efficientnet"), VisionTraining(mode="lora"), 0)
    with pytest.raises(ModelError, match="is named q_proj; there are fc1, fc2, proj, qkv"):
        mark_trained(tower("test_vit"), VisionTraining(mode="lora", lora=LoraRecipe(targets=("q_proj",))), 0)


@pytest.mark.parametrize("targets", [(), ("qkv", "proj")])
def test_low_rank_updates_are_of_linear_layers_in_blocks(targets: tuple[str, ...]) -> None:
    """The patch embedding of this tower has a convolution named proj."""
    backbone = tower("test_vit")
    mark_trained(backbone, VisionTraining(mode="lora", lora=LoraRecipe(rank=2, targets=targets)), 0)
    layers = ("attn.qkv", "attn.proj") if targets else ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert trained_tensors(backbone).keys() == {
        f"blocks.{block}.{layer}.weight" for block in range(6) for layer in layers
    }


@pytest.mark.parametrize("mode", ["frozen", "full", "lora"])
def test_blocks_count_only_for_the_last_ones(mode: str) -> None:
    trained = []
    for blocks in (0, 99):
        backbone = tower("test_vit")
        mark_trained(backbone, VisionTraining(mode=mode, blocks=blocks), 0)  # type: ignore[arg-type]
        trained.append([name for name, parameter in backbone.named_parameters() if parameter.requires_grad])
    assert trained[0] == trained[1]


def test_blocks_are_found_for_sharding() -> None:
    assert len(blocks_of(tower("test_vit"))) == 6
