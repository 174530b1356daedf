"""A recipe: everything that determines a trained model, as one frozen dataclass."""

from dataclasses import dataclass

from llm2clip_search.training.data.recipe import DataRecipe, DataSize
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Both stages of a model, and the data that they are trained on."""

    name: str
    data: DataRecipe
    size: DataSize
    stage1: CaptionLLMRecipe
    stage2: ClipRecipe
