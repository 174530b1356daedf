"""Estimates of dry runs, compared with published numbers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.dual import transformers_model
from llm2clip_search.encoders.vision import build_vision_tower
from llm2clip_search.errors import ModelError
from llm2clip_search.training import RECIPES, dry_run, find_recipe
from llm2clip_search.training.dry_run import (
    StageEstimate,
    VisionCost,
    estimate_captions,
    estimate_clip,
    estimate_embed,
    vision_cost,
)
from llm2clip_search.training.runtime.costs import DeviceSpeed, cost_of, measure_flops
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.distillation import Distillation
from llm2clip_search.training.tasks.empty_towers import (
    clip_width,
    empty_backbone,
    empty_llm,
    is_convolutional,
    llm_shape,
    require_blocks,
)
from llm2clip_search.training.tasks.vision_training import VisionTraining
from tests.support.commands import RunCli
from tests.support.dual import save_dual
from tests.support.tiny_training import TinyTowers, shrink

SPEED = DeviceSpeed(device="abacus", flops=1e12)


def sizes(estimate: StageEstimate) -> dict[str, tuple[int, int]]:
    return {part.name: (part.parameters, part.trained) for part in estimate.parts}


@pytest.fixture(scope="module", autouse=True)
def every_tower_is_counted_once() -> Iterator[None]:
    """Counting takes a second, and many recipes have the same tower."""
    counts: dict[str, VisionCost] = {}

    def counted(stage: ClipRecipe) -> VisionCost:
        key = repr((stage.model.vision, stage.vision, stage.kept_views, stage.bf16))
        if key not in counts:
            counts[key] = vision_cost(stage)
        return counts[key]

    with mock.patch.object(dry_run, "vision_cost", counted):
        yield


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_an_estimate(name: str) -> None:
    recipe = find_recipe(name)
    captions, clip = estimate_captions(recipe, SPEED), estimate_clip(recipe, SPEED)
    for estimate in (captions, clip):
        flops = estimate.steps * estimate.step_flops + estimate.preparation_flops
        assert estimate.run_seconds == pytest.approx(flops / 1e12)
        assert estimate.memory["optimiser"] == 2 * estimate.memory["gradients"]
        assert all(value > 0 for value in estimate.memory.values())
        assert estimate.to_dict()["epochs"] == estimate.epochs
    if not name.startswith("nano"):
        assert captions.epochs == pytest.approx(1, abs=2e-3)
        assert clip.epochs == pytest.approx(4, abs=2e-3)


@pytest.mark.parametrize(
    ("llm", "whole", "updates"),
    [("llama3.2-1b", 1_235_814_400, 11_272_192), ("llama3-8b", 8_030_261_248 - 128256 * 4096, 41_943_040)],
)
def test_llms_have_their_published_size(llm: str, whole: int, updates: int) -> None:
    """The published size of the 8B LLM includes the language-model head, which is not loaded."""
    found = sizes(estimate_captions(find_recipe(f"{llm}-openai-b16-cc3m"), SPEED))
    assert found == {"LLM": (whole, 0), "LoRA": (updates, updates)}


def test_smollm2_has_its_published_size() -> None:
    llm = empty_llm(TextConfig(library="llm", weights="hf:HuggingFaceTB/SmolLM2-135M", max_tokens=8))
    assert sum(p.numel() for p in llm.parameters()) == 134_515_008


def test_gemma_3_has_its_published_size() -> None:
    llm = empty_llm(TextConfig(library="llm", weights="hf:google/gemma-3-270m", max_tokens=8))
    assert sum(p.numel() for p in llm.parameters()) == 268_098_176


def test_the_adaptor_has_the_size_of_the_checkpoints() -> None:
    """The original's adaptor for an 8B LLM has 273,769,728 parameters: four blocks, a norm, 4096 to 1280."""
    large = sizes(estimate_clip(find_recipe("llama3-8b-openai-l14-336-cc3m"), SPEED))
    assert large["adaptor"] == (273_769_728, 273_769_728)
    small = sizes(estimate_clip(find_recipe("llama3.2-1b-openai-l14-336-cc3m"), SPEED))
    behind_the_blocks = 2 * 2048 + 2048 * 1280 + 1280
    assert small["adaptor"][0] - behind_the_blocks == pytest.approx(67.1e6, abs=0.1e6)


def test_the_vision_tower_has_the_size_of_the_checkpoints() -> None:
    """The original's has 303,507,456 parameters without CLIP's projection to 768, which is kept here."""
    found = sizes(estimate_clip(find_recipe("llama3-8b-openai-l14-336-cc3m"), SPEED))
    assert found["vision tower"] == (303_507_456 + 1024 * 768, 303_507_456 + 1024 * 768)
    assert found["projection"][0] == 768 * 1280 + 1280


def test_a_transformer_costs_two_operations_per_weight_and_token() -> None:
    recipe = find_recipe("llama3-8b-openai-b16-cc3m")
    estimate = estimate_embed(recipe, SPEED)
    weights = estimate.parts[0].parameters - 128256 * 4096  # the embedding look-up is free
    a_caption = estimate.step_flops / estimate.samples_per_step
    assert a_caption == pytest.approx(2 * weights * recipe.size.tokens, rel=0.02)
    assert estimate.disk == recipe.size.captions * (2 * 4096 + 8)


def test_the_cost_of_a_vision_transformer_equals_the_published_one() -> None:
    """ViT-B/16: 35.1 billion operations forward (17.6 billion multiply-adds), and twice as many backward."""
    estimate = estimate_clip(replace(recipe := find_recipe("llama3.2-1b-openai-b16-cc3m"), stage2=recipe.stage2), SPEED)
    adaptor = 6 * 69_760_000 * 4096
    per_image = (estimate.step_flops - adaptor) / 4096
    assert per_image == pytest.approx(35.1e9 * (2 + 2), rel=0.01)  # gradient caching runs the forward pass twice


def test_operations_of_a_depthwise_convolution_are_counted_by_group() -> None:
    convolution = nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False)
    pixels = torch.zeros(1, 8, 10, 10, requires_grad=True)
    cost = cost_of(convolution, lambda: convolution(pixels))
    assert cost.forward == 2 * 9 * 8 * 100
    assert cost.backward == 2 * cost.forward


def test_activations_are_counted_once() -> None:
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    pixels = torch.zeros(5, 4)
    assert cost_of(layers, lambda: layers(pixels)).activation_bytes == 4 * 5 * (4 + 8)


def test_cached_views_skip_the_frozen_blocks() -> None:
    recipe = find_recipe("nano")
    last = replace(recipe.stage2, vision=VisionTraining(mode="last", blocks=2))
    cached, whole = (replace(recipe, stage2=replace(last, kept_views=views)) for views in (4, 0))
    kept, anew = estimate_clip(cached, SPEED), estimate_clip(whole, SPEED)
    assert kept.parts == anew.parts
    assert kept.step_flops < 0.7 * anew.step_flops
    assert "kept views" not in anew.memory


def test_cached_views_of_a_tower_that_is_trained_as_a_whole_are_pixels() -> None:
    recipe = find_recipe("nano")
    cached, whole = (replace(recipe, stage2=replace(recipe.stage2, kept_views=views)) for views in (8, 0))
    kept, anew = estimate_clip(cached, SPEED), estimate_clip(whole, SPEED)
    assert recipe.stage2.vision.mode == "full"
    assert kept.step_flops == pytest.approx(anew.step_flops)
    assert kept.memory["kept views"] == recipe.size.images * 8 * 320 * 320 * 3


def test_distillation_costs_a_second_tower(towers: TinyTowers) -> None:
    recipe = shrink(find_recipe("llama3.2-1b-openai-b16-cc3m"), towers)
    model = replace(recipe.stage2.model, vision=replace(recipe.stage2.model.vision, projection=False))
    plain = replace(recipe, stage2=replace(recipe.stage2, model=model))
    kept = replace(plain, stage2=replace(plain.stage2, keep=Distillation(vision=1.0)))
    assert (
        estimate_clip(kept, SPEED).memory["original tower"] == 4 * sizes(estimate_clip(plain, SPEED))["vision tower"][0]
    )
    assert estimate_clip(kept, SPEED).step_flops > estimate_clip(plain, SPEED).step_flops


def test_gradient_caching_and_checkpointing_reduce_memory() -> None:
    recipe = find_recipe("llama3.2-1b-openai-b16-cc3m")
    stage = recipe.stage1
    whole, unchecked = replace(stage, gradient_cache=False), replace(stage, gradient_checkpointing=False)
    small, all_at_once, large = (
        estimate_captions(replace(recipe, stage1=each), SPEED).memory["activations"]
        for each in (stage, whole, unchecked)
    )
    assert small * (2 * stage.batch_size // stage.micro_batch) == all_at_once
    assert small < large / 4


def test_shapes_are_read_from_folders_and_unknown_ones_are_refused(towers: TinyTowers) -> None:
    assert llm_shape(towers.llm).hidden_size == 32
    with pytest.raises(ModelError, match=r"The shape of hf:who/knows is not known .* Llama-3\.2-1B"):
        llm_shape("hf:who/knows")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_of_transformers_are_counted_from_their_folder(kind: str, tmp_path: Path) -> None:
    """Only config.json is read."""
    save_dual(tmp_path / "dual", kind)
    model = transformers_model(tmp_path / "dual", source=f"dir:{tmp_path / 'dual'}")
    built = build_vision_tower(model.vision, dim=model.dim, folder=None, tensors={}).backbone
    (tmp_path / "dual" / "model.safetensors").unlink()
    empty = empty_backbone(model.vision)
    assert {name: p.shape for name, p in empty.named_parameters()} == {
        name: p.shape for name, p in built.named_parameters()
    }
    assert all(p.is_meta for p in empty.parameters())
    assert clip_width(model.text) == model.dim
    assert not is_convolutional(model.vision)
    with pytest.raises(ModelError, match="The vision tower has 2 blocks, but the last 3 are to be trained"):
        require_blocks(model.vision, VisionTraining(mode="last", blocks=3))
    elsewhere = replace(model.vision, weights="hf:who/knows")
    with pytest.raises(ModelError, match="The shape of hf:who/knows is not known before it is fetched"):
        empty_backbone(elsewhere)
    require_blocks(elsewhere, VisionTraining(mode="last", blocks=3))


def test_a_tower_of_convolutions_is_known_by_its_blocks() -> None:
    assert is_convolutional(find_recipe("nano").stage2.model.vision)


def test_the_speed_is_measured_in_half_a_second() -> None:
    assert measure_flops("cpu", bf16=False).flops > 1e8


def test_the_command_prints_the_estimate(run_cli: RunCli) -> None:
    done = run_cli("train", "clip", "llama3-8b-openai-l14-336-cc3m", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "273,769,728" in done.stdout
    assert "caption store on disk" in done.stdout
    assert "47.13 GB" in done.stdout
    assert done.stderr == ""
