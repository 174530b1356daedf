"""The recipes by name: one that is a file of this package, and the paper's."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from llm2clip_search.errors import InputError, ModelError, first_line
from llm2clip_search.training.recipes.paper import PAPER_RECIPES
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.recipes.recipe_file import parse_recipe, recipe_toml

_PACKAGED = ("nano", "nano-frozen")
"""Recipes that are files beside this module."""


def _packaged(name: str) -> str:
    return (files("llm2clip_search.training.recipes") / f"{name}.toml").read_text(encoding="utf-8")


RECIPES = {
    recipe.name: recipe
    for recipe in (*(parse_recipe(_packaged(name), f"{name}.toml") for name in _PACKAGED), *PAPER_RECIPES)
}


def find_recipe(name: str, settings: Sequence[str] = (), *, begins_from_model: bool = False) -> Recipe:
    """Look up a recipe by its name, or read one from a TOML file.

    Args:
        name: of a recipe; or the path of a file, which ends in ``.toml``.
        settings: values that replace some of the recipe's, such as ``clip.loop.steps=200``.
        begins_from_model: see `recipe_file.parse_recipe`.

    Raises:
        InputError: the file or a setting is wrong, see `recipe_file.parse_recipe`.
        ModelError: there is no recipe with this name.
    """
    if name in RECIPES and not settings:
        return RECIPES[name]
    return parse_recipe(recipe_text(name), name, settings, begins_from_model=begins_from_model)


def recipe_text(name: str) -> str:
    """A recipe as a TOML file, with its comments if it is one; errors as `find_recipe`."""
    if name.endswith(".toml"):
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The recipe {name} cannot be read: {first_line(error)}.") from error
    if name not in RECIPES:
        raise ModelError(
            f"There is no recipe {name!r} among the {len(RECIPES)} known ones.",
            hint="llm2clip-search train recipes lists them; the name of a recipe file ends in .toml.",
        )
    return _packaged(name) if name in _PACKAGED else recipe_toml(RECIPES[name])
