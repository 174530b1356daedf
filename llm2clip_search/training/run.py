"""All stages of a recipe, one after the other: those that have ended are passed over, an interrupted one is resumed."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llm2clip_search.base.memory import physical_bytes
from llm2clip_search.base.progress import Progress
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.errors import StoreError, first_line
from llm2clip_search.store.lock import writer_lock
from llm2clip_search.training.data.caption_store import StoredDtype, read_store_info
from llm2clip_search.training.data.own_data import (
    listing_of,
    own_data_recipe,
    read_own_data,
    read_summary,
    write_own_data,
)
from llm2clip_search.training.data.recipe import DataRecipe
from llm2clip_search.training.own_estimate import memory_of_stages, memory_sentence, require_memory
from llm2clip_search.training.recipes.own import OwnRecipe
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.run_page import PAGE
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.stages import before_training, train_captions, train_clip, train_embed
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.distillation import stored_clip_tower
from llm2clip_search.training.tasks.llm_folder import LLMFolder, clip_identity, read_llm
from llm2clip_search.training.tasks.start_model import fetch_start, start_config

logger = logging.getLogger(__name__)

DATA, LLM, CAPTIONS, MODEL = "data", "llm", "captions", "model"
"""Folders of a run: what was found in own data, the LLM of stage 1, the caption store, the finished model."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run ended with."""

    model: Path
    """Folder of the finished model."""
    before: Mapping[str, float]
    """Metrics before the first step; empty without a model to begin from."""
    figures: Mapping[str, float]
    """Metrics of the finished model; empty without a dev split."""


def run_recipe(recipe: Recipe, *, root: Path, out: Path, world: World, progress: Progress) -> RunResult:
    """Train a model of a recipe from published weights: stage 1, embedding, stage 2.

    Args:
        root: the folder that paths in the recipe are relative to.
        out: folder of the run.

    Raises:
        StoreError: another process trains in this folder, or it cannot be made.
        Llm2ClipError: as of the stages.
    """
    with _locked(out, world):
        return _run_recipe(recipe, root, out, world, progress)


def _run_recipe(recipe: Recipe, root: Path, out: Path, world: World, progress: Progress) -> RunResult:
    train_captions(recipe.stage1, recipe.data, root=root, out=out / LLM, world=world, progress=progress, again=True)
    _embed(recipe.stage2, recipe.data, root, out / LLM, out, "float16", world, progress)
    figures = train_clip(
        recipe.stage2,
        recipe.data,
        root=root,
        llm=out / LLM,
        store=out / CAPTIONS,
        out=out / MODEL,
        world=world,
        progress=progress,
        again=True,
        page=out / PAGE,
    )
    return RunResult(model=out / MODEL, before={}, figures=figures)


def run_own_recipe(recipe: OwnRecipe, *, root: Path, out: Path, world: World, progress: Progress) -> RunResult:
    """Train a model on own data: look at the data if it has changed, stage 1 if the recipe has it, embed, stage 2.

    Args:
        root: the folder that paths in the recipe are relative to.
        out: folder of the run.

    Raises:
        StoreError: another process trains in this folder, or it cannot be made.
        Llm2ClipError: a source cannot be used, see `read_own_data`; or as of the stages.
    """
    with _locked(out, world):
        return _run_own_recipe(recipe, root, out, world, progress)


@contextmanager
def _locked(out: Path, world: World) -> Iterator[None]:
    """Keep other runs out of a folder: each would replace the other's checkpoints. Rank 0 holds the lock for all."""
    if not world.is_main:
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"The folder of the run, {out}, cannot be made: {first_line(error)}.") from error
    with writer_lock(out):
        yield


def _run_own_recipe(recipe: OwnRecipe, root: Path, out: Path, world: World, progress: Progress) -> RunResult:
    start = fetch_start(recipe.start, recipe.llm)
    if world.is_main:
        look_at_data(recipe, root=root, out=out / DATA, progress=progress)
    world.barrier()
    summary, data = read_summary(out / DATA), own_data_recipe(recipe.data, recipe.evaluation)
    model = start_config(start, recipe.name, licence=recipe.licence, training_data=tuple(_card_lines(recipe, summary)))
    clip = replace(recipe.clip, model=model)
    needed, available = memory_of_stages(recipe, summary["counts"]), physical_bytes() if world.device == "cpu" else 0
    require_memory(recipe.name, needed, available)
    if world.is_main and needed:
        logger.info("%s", memory_sentence(needed, available))
    llm = start.llm_folder
    if recipe.captions is not None:
        train_captions(
            recipe.captions,
            data,
            root=out / DATA,
            out=out / LLM,
            world=world,
            progress=progress,
            start=read_llm(llm),
            again=True,
        )
        llm = out / LLM
    _embed(clip, data, out / DATA, llm, out, recipe.embed.dtype, world, progress)
    figures = train_clip(
        clip,
        data,
        root=out / DATA,
        llm=llm,
        store=out / CAPTIONS,
        out=out / MODEL,
        world=world,
        progress=progress,
        start=None if start.is_dual else start.model,
        again=True,
        page=out / PAGE,
    )
    return RunResult(model=out / MODEL, before=before_training(out / MODEL), figures=figures)


def look_at_data(recipe: OwnRecipe, *, root: Path, out: Path, progress: Progress) -> bool:
    """Read the sources and write what was found to ``out``, unless nothing has changed since; returns whether it did.

    Raises:
        CorpusError: as `read_own_data`.
    """
    data = recipe.data, recipe.evaluation
    listing = listing_of(*data, folder=root)
    if read_summary(out).get("listing") == listing:
        return False
    found = read_own_data(*data, folder=root, progress=progress)
    write_own_data(found, out, listing)
    progress("data", 0, 0, found.counts())
    return True


def _card_lines(recipe: OwnRecipe, summary: Mapping[str, object]) -> list[str]:
    """The training data on the model card: names, counts, digest and terms."""
    counts = summary["counts"]
    assert isinstance(counts, dict), "data.json has counts"
    names = ", ".join(dict.fromkeys(Path(each.source).name or each.source for each in recipe.data.train))
    what = f"{counts['train images']:,} images with {counts['train captions']:,} captions"
    return [f"{names}, train split: {what} (digest {summary['digest']}): {recipe.terms or 'terms not stated'}"]


def _embed(
    recipe: ClipRecipe,
    data: DataRecipe,
    root: Path,
    llm: Path,
    out: Path,
    dtype: StoredDtype,
    world: World,
    progress: Progress,
) -> None:
    if world.is_main:
        _remove_outdated(out / CAPTIONS, read_llm(llm), stored_clip_tower(recipe.model, recipe.keep), dtype)
        embedded, total = train_embed(
            recipe, data, root=root, llm=llm, out=out / CAPTIONS, device=world.device, dtype=dtype, progress=progress
        )
        if embedded:
            progress("captions embedded", 0, 0, {"new": embedded, "in all": total})
    world.barrier()


def _remove_outdated(store: Path, llm: LLMFolder, clip: TextConfig | None, dtype: StoredDtype) -> None:
    """Delete a caption store of a run that another LLM or CLIP made, or that has another dtype."""
    if not (store / "store.json").exists():
        return
    info = read_store_info(store)
    if (info.llm, info.clip, info.dtype) != (llm.fingerprint, clip_identity(clip), dtype):
        shutil.rmtree(store)
