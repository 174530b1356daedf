"""Training of encoders from an LLM and a vision tower, in two stages (LLM2CLIP)."""

from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.recipes.registry import RECIPES, find_recipe

__all__ = ["RECIPES", "Recipe", "find_recipe"]
