"""Recipes: they have the paper's values, and their stages run."""

from pathlib import Path

import pytest

from llm2clip_search.base.progress import no_progress
from llm2clip_search.encoders import load_encoder
from llm2clip_search.errors import ModelError
from llm2clip_search.training import RECIPES, find_recipe, stages
from llm2clip_search.training.recipes.paper import PAPER_RECIPES
from llm2clip_search.training.runtime.distributed import World
from tests.support.commands import RunCli
from tests.support.tiny_training import TinyTowers, shrink, write_nano_data, write_web_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_web_data(folder)
    write_nano_data(folder)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_both_stages_run_on_tiny_towers(name: str, towers: TinyTowers, root: Path, tmp_path: Path) -> None:
    recipe = shrink(find_recipe(name), towers)
    llm, store, model = tmp_path / "llm", tmp_path / "captions", tmp_path / "model"
    stages.train_captions(recipe.stage1, recipe.data, root=root, out=llm, world=World(), progress=no_progress)
    done, rows = stages.train_embed(
        recipe.stage2, recipe.data, root=root, llm=llm, out=store, device="cpu", progress=no_progress
    )
    assert done == rows > 0
    stages.train_clip(
        recipe.stage2, recipe.data, root=root, llm=llm, store=store, out=model, world=World(), progress=no_progress
    )
    encoder = load_encoder(f"dir:{model}", runtime="torch", device="cpu")
    assert encoder.encode_texts(["a thing on a table"]).shape == (1, recipe.stage2.model.dim)


def test_the_paper_recipes_are_all_pairs_of_towers_on_both_corpora() -> None:
    assert len(PAPER_RECIPES) == 2 * 6 * 2
    assert {recipe.name for recipe in PAPER_RECIPES} >= {
        "llama3.2-1b-openai-l14-336-cc3m",
        "llama3-8b-eva02-l14-336-cc3m-cc12m",
        "llama3.2-1b-siglip2-so400m-224-cc3m",
    }


def test_steps_come_from_images_and_epochs() -> None:
    small, large = (find_recipe(f"llama3-8b-openai-l14-{corpus}") for corpus in ("cc3m", "cc3m-cc12m"))
    assert (small.stage1.loop.steps, small.stage2.loop.steps) == (2_873_538 // 512, 4 * 2_873_538 // 4096)
    assert (large.stage1.loop.steps, large.stage2.loop.steps) == (12_873_763 // 512, 4 * 12_873_763 // 4096)


def test_siglip_2_keeps_its_loss_and_width() -> None:
    for recipe in PAPER_RECIPES:
        expected = ("siglip", 1152) if "siglip2" in recipe.name else ("clip", 1280)
        assert (recipe.stage2.loss, recipe.stage2.model.dim) == expected


def test_open_clip_publishes_the_vision_towers() -> None:
    from llm2clip_search.encoders.dual import open_clip_model

    for recipe in PAPER_RECIPES:
        vision = recipe.stage2.model.vision
        assert open_clip_model(f"{vision.architecture}/{vision.weights}").vision.preprocess == vision.preprocess


def test_the_error_for_an_unknown_recipe_points_to_the_list(run_cli: RunCli) -> None:
    with pytest.raises(ModelError, match="There is no recipe 'mega' among the 26") as raised:
        find_recipe("mega")
    assert raised.value.hint.startswith("llm2clip-search train recipes lists them")
    listed = run_cli("train", "recipes").stdout.splitlines()
    assert [line.split()[0] for line in listed[1:]] == list(RECIPES)
