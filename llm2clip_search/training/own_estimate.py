"""What training on own data takes, estimated from shapes; see `dry_run`."""

from collections.abc import Mapping
from dataclasses import replace

from llm2clip_search.errors import ModelError
from llm2clip_search.training.data.own_data import own_data_recipe
from llm2clip_search.training.data.recipe import DataSize
from llm2clip_search.training.dry_run import StageEstimate, estimate_captions, estimate_clip, estimate_embed
from llm2clip_search.training.recipes.own import OwnRecipe
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.runtime.costs import DeviceSpeed
from llm2clip_search.training.runtime.loop import LoopRecipe
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe

TOKENS = 16
"""Tokens of a short caption, on average."""
_TRAINS = {"captions": "Stage 1", "clip": "Stage 2"}
_ANY_SPEED = DeviceSpeed(device="cpu", flops=1.0)


def estimate_own(recipe: OwnRecipe, counts: Mapping[str, int], speed: DeviceSpeed | None = None) -> list[StageEstimate]:
    """Estimate stage 1, if the recipe has it, the embedding of the captions, and stage 2.

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
        stage1=recipe.captions
        or CaptionLLMRecipe(text=text, loop=LoopRecipe(steps=1, learning_rate=1.0), batch_size=2, micro_batch=1),
        stage2=replace(clip, batch_size=min(clip.batch_size, images)),
    )
    stages = [estimate_captions] * (recipe.captions is not None) + [estimate_embed, estimate_clip]
    return [estimate(whole, speed) for estimate in stages]


def require_memory(recipe: OwnRecipe, counts: Mapping[str, int], available: int) -> None:
    """Check that both stages fit in memory; a model whose shapes are not known is taken to fit.

    Args:
        available: bytes; 0 if that is not known.

    Raises:
        ModelError: the message has both sizes.
    """
    try:
        estimates = estimate_own(recipe, counts, _ANY_SPEED)
    except ModelError:
        return
    for stage, title in ((each, _TRAINS[each.stage]) for each in estimates if each.stage in _TRAINS):
        needed = sum(count for name, count in stage.memory.items() if name != "kept views")  # which are a file
        if available and needed > available:
            raise ModelError(
                f"{title} of {recipe.name} takes about {needed / 1e9:.1f} GB of memory, but this machine has"
                f" {available / 1e9:.1f} GB; a smaller {stage.stage}.micro_batch with {stage.stage}.gradient_cache ="
                " true takes less."
            )
