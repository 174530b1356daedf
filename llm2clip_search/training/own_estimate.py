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


def memory_of_stages(recipe: OwnRecipe, counts: Mapping[str, int]) -> dict[str, int]:
    """Bytes of memory that each stage of training takes, by its name; empty for a model whose shapes are not known.

    Args:
        counts: as for `estimate_own`.
    """
    try:
        estimates = estimate_own(recipe, counts, _ANY_SPEED)
    except ModelError:
        return {}
    return {
        each.stage: sum(count for name, count in each.memory.items() if name != "kept views")  # which are a file
        for each in estimates
        if each.stage in _TRAINS
    }


def memory_sentence(needed: Mapping[str, int], available: int) -> str:
    """What the stages take and the machine has, for people; empty if nothing is known.

    Args:
        needed: see `memory_of_stages`.
        available: bytes; 0 if that is not known.
    """
    takes = ", ".join(f"about {_gigabytes(count)} in {_TRAINS[stage].lower()}" for stage, count in needed.items())
    has = f"; this machine has {_gigabytes(available)}" if available else ""
    return f"Memory: {takes}{has}." if takes else ""


def require_memory(name: str, needed: Mapping[str, int], available: int) -> None:
    """Check that every stage fits in memory.

    Args:
        name: of the recipe.
        needed: see `memory_of_stages`.
        available: bytes; 0 if that is not known.

    Raises:
        ModelError: the message has both sizes.
    """
    for stage, count in needed.items():
        if available and count > available:
            raise ModelError(
                f"{_TRAINS[stage]} of {name} takes about {_gigabytes(count)} of memory, but this machine has"
                f" {_gigabytes(available)}; a smaller {stage}.micro_batch with {stage}.gradient_cache = true takes"
                " less."
            )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
