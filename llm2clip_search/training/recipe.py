"""What a recipe is: everything that decides a trained model, in one frozen value."""

from dataclasses import dataclass

from llm2clip_search.training.caption_llm import CaptionLLMRecipe
from llm2clip_search.training.clip import ClipRecipe
from llm2clip_search.training.stages import DataRecipe


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """What the data are known to hold: `dry_run` estimates by it before anything is read."""

    photographs: int
    """That stage 1 draws pairs of captions from."""
    images: int
    """Of stage 2."""
    captions: int
    """Different ones of stage 2 and of dev, each of which the caption store holds once."""
    tokens: int
    """Of a caption, mean."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Both stages of a model and what they are trained on."""

    name: str
    data: DataRecipe
    size: DataSize
    captions: CaptionLLMRecipe
    clip: ClipRecipe
