"""Stage 1 on own data: the LLM of a model is trained on, before its vision tower."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm2clip_search.base.progress import no_progress
from llm2clip_search.encoders import load_encoder
from llm2clip_search.training.data.caption_store import read_store_info
from llm2clip_search.training.recipes.own import read_own_recipe
from llm2clip_search.training.run import run_own_recipe
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.tasks.llm_folder import read_llm
from llm2clip_search.training.tasks.lora import stacked_lora
from tests.support import own_data
from tests.support.commands import RunCli, run_in_process
from tests.support.models import save_model

FAST = (
    "captions.loop.steps=3",
    "captions.loop.warmup_steps=1",
    "captions.lora.rank=2",
    "captions.batch_size=4",
    "captions.micro_batch=4",
    "captions.bf16=false",
    "clip.loop.steps=2",
    "clip.loop.warmup_steps=1",
    "clip.batch_size=6",
    "clip.micro_batch=4",
    "clip.vision.blocks=1",
    "clip.bf16=false",
)
CAPTIONS = ["thing 3 on a table", "a picture of thing 5"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with stage 1 that train init wrote."""
    place = tmp_path_factory.mktemp("tuned")
    save_model(place / "start")
    own_data.folder_with_texts(place / "things")
    arguments = ("--data", "things", "--from", f"dir:{place / 'start'}", "--tune-llm")
    done = run_in_process("train", "init", "my.toml", *arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "\n[captions]\n" in (place / "my.toml").read_text()
    return place / "my.toml"


def trained(recipe: Path, out: str, *settings: str) -> Path:
    own = read_own_recipe(str(recipe), (*FAST, *settings))
    run_own_recipe(own, root=recipe.parent, out=recipe.parent / out, world=World(), progress=no_progress)
    return recipe.parent / out


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    return trained(recipe, "whole")


def test_the_model_has_the_trained_llm_and_its_card_says_so(recipe: Path, whole: Path) -> None:
    embed = {
        name: read_llm(recipe.parent / name).embedder("cpu").unit for name in ("start", "whole/llm", "whole/model")
    }
    vectors = {name: each(CAPTIONS) for name, each in embed.items()}
    np.testing.assert_allclose(vectors["whole/model"], vectors["whole/llm"], atol=1e-6)
    assert np.abs(vectors["whole/llm"] - vectors["start"]).max() > 1e-3
    encoder = load_encoder(f"dir:{whole / 'model'}", runtime="torch", device="cpu")
    assert encoder.encode_texts(CAPTIONS).shape == (2, 16)
    assert read_store_info(whole / "captions").llm == read_llm(whole / "llm").fingerprint
    card = (whole / "model" / "README.md").read_text()
    assert "Stage 1 trained the LLM: 3 steps of 4 pairs of captions of " in card
    assert "| val, und, before stage 2 |" in card
    page = (whole / "run.html").read_text()
    assert "<td class=when>before stage 2</td>" in page
    assert "Before stage 2" in page


def test_the_printed_figures_are_those_before_and_after_stage_2(recipe: Path, whole: Path, run_cli: RunCli) -> None:
    settings = [part for setting in FAST for part in ("--set", setting)]
    done = run_cli("train", "run", recipe.name, "--out", "whole", *settings, cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Before and after stage 2:\n")


def test_another_stage_1_is_trained_and_its_captions_are_embedded_again(recipe: Path, whole: Path) -> None:
    before = [(whole / name).stat().st_mtime_ns for name in ("llm/model.safetensors", "model/model.safetensors")]
    trained(recipe, "whole")
    assert before == [
        (whole / name).stat().st_mtime_ns for name in ("llm/model.safetensors", "model/model.safetensors")
    ]
    former = read_store_info(whole / "captions").llm
    trained(recipe, "whole", "captions.loop.learning_rate=0.01")
    assert read_store_info(whole / "captions").llm == read_llm(whole / "llm").fingerprint != former


def test_training_goes_on_from_the_updates_that_the_llm_has(recipe: Path, whole: Path) -> None:
    """Ranks add up; without a step that changes anything, captions have the same embeddings."""
    again = recipe.with_name("again.toml")
    again.write_text(recipe.read_text().replace(f"dir:{recipe.parent / 'start'}", f"dir:{whole / 'model'}"))
    out = trained(again, "again", "captions.loop.learning_rate=1e-12")
    first, second = (load_file(folder / "llm" / "model.safetensors") for folder in (whole, out))
    name = next(name for name in first if name.endswith(".down"))
    assert (first[name].shape[0], second[name].shape[0]) == (2, 4)
    vectors = [read_llm(folder / "llm").embedder("cpu").unit(CAPTIONS) for folder in (whole, out)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_stacked_updates_are_the_sum_of_both() -> None:
    draws = torch.Generator().manual_seed(0)
    shapes = {"a.down": (2, 5), "a.up": (4, 2)}
    first = {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}
    second = {
        name.replace("a.", f"{layer}."): torch.randn(shape, generator=draws)
        for layer in "ab"
        for name, shape in shapes.items()
    }
    both = stacked_lora(first, second)
    expected = first["a.up"] @ first["a.down"] + second["a.up"] @ second["a.down"]
    torch.testing.assert_close(both["a.up"] @ both["a.down"], expected)
    assert torch.equal(both["b.up"], second["b.up"])


def test_a_dry_run_prints_stage_1_too(recipe: Path, run_cli: RunCli) -> None:
    settings = [part for setting in FAST for part in ("--set", setting)]
    done = run_cli("train", "run", recipe.name, "--dry-run", *settings, cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    stages = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("my, train")]
    assert stages == ["captions", "embed", "clip"]


def test_images_with_one_caption_have_no_pairs(recipe: Path, run_cli: RunCli) -> None:
    own_data.folder_with_texts(recipe.with_name("single"), {n: [f"thing {n}"] for n in range(6)})
    arguments = ("--data", "single", "--from", f"dir:{recipe.parent / 'start'}", "--tune-llm")
    done = run_cli("train", "init", "single.toml", *arguments, cwd=recipe.parent)
    assert done.returncode == 1
    assert "no training image has more than one" in " ".join(done.stderr.split())
    assert not recipe.with_name("single.toml").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("captions.loop.stepz=3", "[captions.loop] has no field 'stepz'; did you mean 'steps'?"),
        ("captions.text.pooling=last", "[captions] has no field 'text'"),
    ],
)
def test_a_wrong_field_of_stage_1_is_said(setting: str, message: str, recipe: Path, run_cli: RunCli) -> None:
    done = run_cli("train", "run", recipe.name, "--set", setting, cwd=recipe.parent)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())
