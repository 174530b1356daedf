"""The recipes by name."""

from llm2clip_search.errors import ModelError
from llm2clip_search.training.recipes.nano import NANO
from llm2clip_search.training.recipes.paper import PAPER_RECIPES
from llm2clip_search.training.recipes.recipe import Recipe

RECIPES = {recipe.name: recipe for recipe in (NANO, *PAPER_RECIPES)}


def find_recipe(name: str) -> Recipe:
    """Look up a recipe.

    Raises:
        ModelError: there is no recipe with this name.
    """
    if name not in RECIPES:
        raise ModelError(
            f"There is no recipe {name!r} among the {len(RECIPES)} known ones.",
            hint="llm2clip-search train recipes lists them.",
        )
    return RECIPES[name]
