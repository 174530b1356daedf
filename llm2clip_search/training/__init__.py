"""Training: what turns an LLM and a vision tower into one encoder."""

from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.recipes.registry import RECIPES, find_recipe

__all__ = ["RECIPES", "Recipe", "find_recipe"]
