"""The joint baseline, and the comparison with stage 2."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from llm2clip_search.base.progress import no_progress
from llm2clip_search.cli.app import app
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.errors import CorpusError, ModelError
from llm2clip_search.training import Recipe, comparison, find_recipe, stages
from llm2clip_search.training.comparison import (
    Method,
    MethodMeasurement,
    TrainingComparison,
    compare_training,
    method_task,
)
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.tasks.clip import ClipTask
from llm2clip_search.training.tasks.distillation import Distillation
from llm2clip_search.training.tasks.joint import JointTask, joint_recipe
from tests.support.tiny_training import TinyTowers, of_flickr8k, shrink, write_flickr8k


@pytest.fixture(scope="module")
def recipe(towers: TinyTowers) -> Recipe:
    """`nano` in float32 without dropout and noise, so that losses can be compared."""
    tiny = shrink(of_flickr8k(find_recipe("nano")), towers)
    exact = replace(tiny.stage2, vision_dropout=0.0, text_dropout=0.0, caption_noise=0.0, bf16=False)
    return replace(tiny, stage2=exact)


@pytest.fixture(scope="module")
def work(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, the LLM of stage 1 and its caption store."""
    root = tmp_path_factory.mktemp("work")
    write_flickr8k(root)
    stages.train_captions(recipe.stage1, recipe.data, root=root, out=root / "llm", world=World(), progress=no_progress)
    stages.train_embed(
        recipe.stage2, recipe.data, root=root, llm=root / "llm", out=root / "store", device="cpu", progress=no_progress
    )
    return root


def task(method: Method, recipe: Recipe, work: Path, scratch: Path) -> ClipTask:
    return method_task(method, recipe, root=work, llm=work / "llm", store=work / "store", device="cpu", scratch=scratch)


def test_the_baseline_starts_with_stage_2s_loss(recipe: Recipe, work: Path, tmp_path: Path) -> None:
    """Its LLM is still unchanged, so its embeddings equal those of the store, up to float16."""
    stored, joint = (task(method, recipe, work, tmp_path) for method in ("stage 2", "joint"))
    assert isinstance(joint, JointTask)
    assert joint.backward(0)["loss"] == pytest.approx(stored.backward(0)["loss"], rel=1e-3)
    for ours, theirs in zip(joint.groups(), stored.groups(), strict=False):
        for name, parameter in ours.parameters.items():
            if (gradient := theirs.parameters[name].grad) is not None:
                assert parameter.grad is not None
                torch.testing.assert_close(parameter.grad, gradient, rtol=0.05, atol=0.02 * float(gradient.abs().max()))


def test_the_llm_is_trained_too(recipe: Recipe, work: Path, tmp_path: Path) -> None:
    joint = task("joint", recipe, work, tmp_path)
    updates = joint.groups()[-1]
    assert updates.parameters
    assert all(name.startswith("llm.") and "lora" in name for name in updates.parameters)
    joint.backward(0)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in updates.parameters.items() if "lora_B" in n)


def test_cached_gradients_equal_uncached_ones(recipe: Recipe, work: Path, tmp_path: Path) -> None:
    joint = task("joint", recipe, work, tmp_path)
    assert joint.recipe.gradient_cache

    def gradients() -> list[torch.Tensor]:
        parameters = [p for group in joint.groups() for p in group.parameters.values()]
        for parameter in parameters:
            parameter.grad = None
        joint.backward(0)
        return [p.grad.clone() for p in parameters if p.grad is not None]

    cached = gradients()
    joint.recipe = replace(joint.recipe, gradient_cache=False)
    for first, second in zip(cached, gradients(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def test_dev_is_embedded_with_the_current_llm(recipe: Recipe, work: Path, tmp_path: Path) -> None:
    stored, joint = (task(method, recipe, work, tmp_path) for method in ("stage 2", "joint"))
    for lang in ("en", "zh"):
        (before, of_before), (now, of_now) = (each.embed_dev_captions(each.dev[0], lang) for each in (stored, joint))
        np.testing.assert_array_equal(of_before, of_now)
        np.testing.assert_allclose(before, now, atol=2e-3)
    with torch.no_grad():
        for name, parameter in joint.groups()[-1].parameters.items():
            if "lora_B" in name:
                parameter.add_(0.1)
    assert np.abs(joint.embed_dev_captions(joint.dev[0], "en")[0] - now[0]).max() > 1e-3


def test_the_joint_recipe_is_stage_2_without_clips_text_tower() -> None:
    recipe = find_recipe("llama3-8b-openai-l14-336-cc3m")
    fused = TextConfig(library="open_clip", architecture="ViT-L-14-quickgelu", weights="openai", max_tokens=77)
    model = recipe.stage2.model
    vision, text = replace(model.vision, projection=False), replace(model.text, clip=fused)
    model = replace(model, vision=vision, text=text)
    recipe = replace(recipe, stage2=replace(recipe.stage2, model=model, keep=Distillation(text_steps=1)))
    joint = joint_recipe(recipe.stage1, recipe.stage2)
    assert joint.llm_scale * joint.stage2.loop.learning_rate == pytest.approx(2e-4)
    assert joint.lora == recipe.stage1.lora
    assert joint.stage2.keep is None
    assert joint.stage2.model.text.clip is None
    assert (joint.stage2.vision, joint.stage2.loss) == (recipe.stage2.vision, recipe.stage2.loss)


@pytest.mark.slow
def test_both_methods_are_measured_in_their_own_processes(recipe: Recipe, work: Path) -> None:
    tasks: list[str] = []
    result = compare_training(
        recipe,
        root=work,
        llm=work / "llm",
        store=work / "store",
        samples=9,
        device="cpu",
        progress=lambda what, *_: tasks.append(what),
    )
    assert (result.stage2.method, result.joint.method) == ("stage 2", "joint")
    assert result.stage2.samples == result.joint.samples == 12
    assert result.ratio == result.joint.seconds_per_sample / result.stage2.seconds_per_sample
    for measured in (result.stage2, result.joint):
        assert 50e6 < measured.peak_bytes < 4e9
        assert measured.setup_seconds > 0
        assert 0.0 <= measured.recall["mean_recall"] <= 1.0
    assert tasks.count("joint, training") == 3
    assert json.loads(json.dumps(result.to_dict()))["ratio"] == result.ratio


def test_errors_of_the_process_are_raised(recipe: Recipe, work: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"captions\.csv\.gz does not exist"):
        compare_training(
            recipe, root=tmp_path, llm=work / "llm", store=work / "store", samples=8, device="cpu", progress=no_progress
        )


def test_a_killed_process_is_reported(recipe: Recipe, work: Path) -> None:
    def kill(*_: object) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(ModelError, match="The process that trained stage 2 ended early with exit code -9"):
        compare_training(
            recipe,
            root=work,
            llm=work / "llm",
            store=work / "store",
            samples=10**6,
            device="cpu",
            progress=kill,
        )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> TrainingComparison:
    """Replaces the comparison that the command runs by a fixed result."""
    stage2 = MethodMeasurement(
        method="stage 2",
        samples=512,
        setup_seconds=3.0,
        seconds_per_sample=0.02,
        peak_bytes=2_000_000_000,
        recall={"mean_recall": 0.25},
    )
    joint = replace(stage2, method="joint", seconds_per_sample=0.1)
    result = TrainingComparison(recipe="nano", device="cpu", stage2=stage2, joint=joint)
    monkeypatch.setattr(comparison, "compare_training", mock.Mock(return_value=result))
    return result


@pytest.mark.usefixtures("measured")
def test_the_command_prints_a_table() -> None:
    shown = CliRunner().invoke(app, ["bench", "training"]).stdout
    assert [line.split()[:5] for line in shown.splitlines()[1:3]] == [
        ["stage", "2", "512", "0.0200", "50.0"],
        ["joint", "512", "0.1000", "10.0", "2.00"],
    ]
    assert "stage 2 trains 5.0 times as many images per second" in shown


def test_the_command_prints_json(measured: TrainingComparison) -> None:
    done = CliRunner().invoke(app, ["bench", "training", "--json"])
    assert json.loads(done.stdout) == measured.to_dict()
