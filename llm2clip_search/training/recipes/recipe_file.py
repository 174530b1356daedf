"""Recipes as TOML files: read with settings that replace some of their values, and written."""

from collections.abc import Sequence
from typing import Any

from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.errors import InputError, ModelError
from llm2clip_search.training.data.recipe import DataRecipe, DataSize
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.recipes.toml_file import TomlFile, changed, to_toml
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.empty_towers import require_blocks

TABLES = ("name", "model", "data", "size", "captions", "clip")
"""What a recipe file holds: the name, the model, the data and its size, and both stages."""


def parse_recipe(text: str, name: str, settings: Sequence[str] = (), *, begins_from_model: bool = False) -> Recipe:
    """The recipe of a TOML file.

    Args:
        name: of the file, for messages.
        settings: values that replace some of the file's, such as ``clip.loop.steps=200``.
        begins_from_model: whether stage 2 begins from a model that is named elsewhere, so that it can be held close to
            it.

    Raises:
        InputError: the text is not TOML or names a model to begin from (see `own.read_own_recipe`), or a field is
            unknown, missing or of a value that it cannot have; the message has the line.
    """
    file = TomlFile(text, name, settings)
    if "start" in file.values:
        raise InputError(
            f"{file.place(('start',))}: the recipe has a model to begin from (start), which single stages do not take.",
            hint=f"Train it by llm2clip-search train run {name}.",
        )
    file.check_names(file.values, TABLES, ())
    title = file.values.get("name")
    if not isinstance(title, str) or not title:
        raise file.refuse(("name",), f"is {title!r}, but a recipe needs a name")
    model = file.build(ModelConfig, ("model",), given={"name": title})
    stage2 = file.build(ClipRecipe, ("clip",), given={"model": model})
    for field in ("anchor", "hard_negatives"):
        if getattr(stage2, field) is not None and not begins_from_model:
            raise file.refuse(("clip", field), "needs a model to begin from, as recipes for own data have (start)")
    if stage2.vision.mode == "lora":
        refuse_missing_blocks(file, stage2)
    return Recipe(
        name=title,
        data=file.build(DataRecipe, ("data",)),
        size=file.build(DataSize, ("size",)),
        stage1=file.build(CaptionLLMRecipe, ("captions",)),
        stage2=stage2,
    )


def refuse_missing_blocks(file: TomlFile, stage: ClipRecipe) -> None:
    """Refuse to train blocks or layers that the vision tower does not have; one of unknown shape has them.

    Raises:
        InputError: the message has the line.
    """
    try:
        require_blocks(stage.model.vision, stage.vision)
    except ModelError as error:
        field = "blocks" if stage.vision.mode == "last" else "mode"
        raise InputError(f"{file.place(('clip', 'vision', field))}: {error}") from error


def recipe_toml(recipe: Recipe) -> str:
    """A recipe as the text of a TOML file, without fields that have their default; the inverse of `parse_recipe`."""
    stage2 = changed(recipe.stage2)
    model: dict[str, Any] = stage2.pop("model")
    del model["name"]
    return to_toml(
        {
            "name": recipe.name,
            "model": model,
            "data": changed(recipe.data),
            "size": changed(recipe.size),
            "captions": changed(recipe.stage1),
            "clip": stage2,
        }
    )
