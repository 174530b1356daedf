"""Stages of training of a recipe with tiny towers."""

from pathlib import Path
from typing import Literal

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.training import Recipe, stages
from llm2clip_search.training.runtime.distributed import World

Stage = Literal["captions", "clip"]


def run(
    stage: Stage,
    recipe: Recipe,
    root: Path,
    made: Path,
    out: Path,
    *,
    world: World = World(),
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Run a stage; stage 2 uses the LLM and the store in ``made``."""
    if stage == "captions":
        return stages.train_captions(recipe.stage1, recipe.data, root=root, out=out, world=world, progress=progress)
    return stages.train_clip(
        recipe.stage2,
        recipe.data,
        root=root,
        llm=made / "llm",
        store=made / "store",
        out=out,
        world=world,
        progress=progress,
    )


def embed(recipe: Recipe, root: Path, llm: Path, out: Path) -> tuple[int, int]:
    return stages.train_embed(
        recipe.stage2, recipe.data, root=root, llm=llm, out=out, device="cpu", progress=no_progress
    )
