"""Training: what turns an LLM and a vision tower into one encoder."""

from llm2clip_search.training.recipe import Recipe
from llm2clip_search.training.recipes import RECIPES, find_recipe

__all__ = ["RECIPES", "Recipe", "find_recipe"]
