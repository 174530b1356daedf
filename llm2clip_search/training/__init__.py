"""Training: what turns an LLM and a vision tower into one encoder."""

from llm2clip_search.training.heads import HeadsRecipe, train_heads
from llm2clip_search.training.recipes import RECIPES

__all__ = ["RECIPES", "HeadsRecipe", "train_heads"]
