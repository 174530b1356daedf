"""What training on own data takes, estimated from shapes; see `dry_run`."""

from collections.abc import Mapping
from dataclasses import replace

from llm2clip_search.errors import ModelError
from llm2clip_search.training.data.own_data import own_data_recipe
from llm2clip_search.training.data.recipe import DataSize
from llm2clip_search.training.dry_run import StageEstimate, estimate_clip, estimate_embed
from llm2clip_search.training.recipes.own import OwnRecipe
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.runtime.costs import DeviceSpeed
from llm2clip_search.training.runtime.loop import LoopRecipe
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe
from llm2clip_search.training.tasks.lora import LoraRecipe

TOKENS = 16
"""Tokens of a short caption, on average."""
_ANY_SPEED = DeviceSpeed(device="cpu", flops=1.0)


def estimate_own(
    recipe: OwnRecipe, counts: Mapping[str, int], speed: DeviceSpeed | None = None
) -> tuple[StageEstimate, StageEstimate]:
    """Estimate the embedding of the captions, and stage 2.

    Args:
        counts: of the data, see `OwnSplits.counts`.
        speed: of the device; by default, this machine's CPU is measured.

    Raises:
        ModelError: the shapes of towers are not known.
    """
    model, clip, images = recipe.clip.model, recipe.clip, counts["train images"]
    captions = sum(count for name, count in counts.items() if name.endswith(" captions"))
    text = replace(model.text, adaptor=None, clip=None)
    whole = Recipe(
        name=recipe.name,
        data=own_data_recipe(recipe.data, recipe.evaluation),
        size=DataSize(photographs=images, images=images, captions=captions, tokens=TOKENS),
        stage1=CaptionLLMRecipe(
            text=text,
            lora=LoraRecipe(),
            loop=LoopRecipe(steps=1, learning_rate=1.0),
            batch_size=2,
            micro_batch=1,
            lang_weights={},
        ),
        stage2=replace(clip, batch_size=min(clip.batch_size, images)),
    )
    return estimate_embed(whole, speed), estimate_clip(whole, speed)


def require_memory(recipe: OwnRecipe, counts: Mapping[str, int], available: int) -> None:
    """Check that stage 2 fits in memory; a model whose shapes are not known is taken to fit.

    Args:
        available: bytes; 0 if that is not known.

    Raises:
        ModelError: the message has both sizes.
    """
    try:
        _, clip = estimate_own(recipe, counts, _ANY_SPEED)
    except ModelError:
        return
    needed = sum(count for name, count in clip.memory.items() if name != "kept views")  # which are a file
    if available and needed > available:
        raise ModelError(
            f"Stage 2 of {recipe.name} takes about {needed / 1e9:.1f} GB of memory, but this machine has"
            f" {available / 1e9:.1f} GB; a smaller micro_batch with gradient_cache = true takes less."
        )
