"""Training of encoders from an LLM and a vision tower, in two stages (LLM2CLIP)."""

from typing import TYPE_CHECKING

from llm2clip_search.base.lazy import lazy_names

if TYPE_CHECKING:
    from llm2clip_search.training.recipes.recipe import Recipe
    from llm2clip_search.training.recipes.registry import RECIPES, find_recipe

__all__ = ["RECIPES", "Recipe", "find_recipe"]

# Processes that decode training images import modules of this package, and none of them needs torch.
__getattr__ = lazy_names(
    __name__,
    {
        "recipes.recipe": ("Recipe",),
        "recipes.registry": ("RECIPES", "find_recipe"),
    },
)
