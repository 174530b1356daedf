"""``llm2clip-search train run``: all stages of a recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import DataFolder, Device, DryRun, RecipeName, Settings, ShardingName

if TYPE_CHECKING:
    from llm2clip_search.training.recipes.own import OwnRecipe


def run(
    recipe: RecipeName,
    data: DataFolder = Path(),
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run. Default: named for the recipe, beside its file.", show_default=False),
    ] = None,
    settings: Settings = None,
    device: Device = "auto",
    sharding: ShardingName = "replicate",
    dry_run: DryRun = False,
) -> None:
    """Do all stages of a recipe that are out of date, one after the other; an interrupted run is resumed.

    With a recipe that train init wrote, sources are relative to its file; with any other, --data names the data folder.
    The finished model is the folder "model" of the run.

    [dim]llm2clip-search train run my.toml[/dim]
    [dim]llm2clip-search train run my.toml --set clip.loop.steps=200 --out longer[/dim]
    """
    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.training.recipes.own import folder_of, is_own_recipe, read_own_recipe
    from llm2clip_search.training.recipes.registry import find_recipe
    from llm2clip_search.training.run import run_own_recipe, run_recipe
    from llm2clip_search.training.runtime.distributed import join_process_group

    where = out or Path(f"{recipe.removesuffix('.toml')}-run")
    own = read_own_recipe(recipe, settings or ()) if is_own_recipe(recipe) else None
    if dry_run:
        _estimate(recipe, own, settings or (), device)
        return
    world = join_process_group(device, sharding)
    with ProgressBar(log=True) as progress:
        if own is not None:
            result = run_own_recipe(own, root=folder_of(recipe), out=where, world=world, progress=progress)
        else:
            chosen = find_recipe(recipe, settings or ())
            result = run_recipe(chosen, root=data, out=where, world=world, progress=progress)
    if world.is_main:
        _print_figures(result.before, result.figures, tuned=own is not None and own.captions is not None)
        console.say(f"The model is in {result.model}; index with it by --model dir:{result.model}.")


def _estimate(recipe: str, own: "OwnRecipe | None", settings: Sequence[str], device: str) -> None:
    """Print what the stages take. Own data is looked at, because nothing else says how much there is."""
    from llm2clip_search.base.progress import no_progress
    from llm2clip_search.cli.train.dry_run import print_estimate
    from llm2clip_search.encoders.placement import pick_device
    from llm2clip_search.training.data.own_data import read_own_data
    from llm2clip_search.training.dry_run import estimate_captions, estimate_clip, estimate_embed
    from llm2clip_search.training.own_estimate import estimate_own
    from llm2clip_search.training.recipes.own import folder_of
    from llm2clip_search.training.recipes.registry import find_recipe
    from llm2clip_search.training.runtime.costs import measure_flops

    if own is not None:
        speed = measure_flops(pick_device(device), bf16=own.clip.bf16)
        found = read_own_data(own.data, own.evaluation, folder=folder_of(recipe), progress=no_progress)
        estimates = [*estimate_own(own, found.counts(), speed)]
    else:
        chosen = find_recipe(recipe, settings)
        speed = measure_flops(pick_device(device), bf16=chosen.stage2.bf16)
        estimates = [estimate(chosen, speed) for estimate in (estimate_captions, estimate_embed, estimate_clip)]
    for estimate in estimates:
        print_estimate(estimate)


def _print_figures(before: Mapping[str, float], after: Mapping[str, float], *, tuned: bool) -> None:
    """R@10 of every split and language, before and after training; of stage 2 only if the LLM was tuned before."""
    groups = dict.fromkeys(name.rpartition("/")[0] for name in after if "/" in name)
    columns = ("split", "language", "image_retrieval R@10 (%)", "text_retrieval R@10 (%)")
    table = console.table(*columns, left=("split", "language"))
    for group in groups:
        cells = []
        for task in ("image_retrieval", "text_retrieval"):
            name = f"{group}/{task}_recall@10"
            known = [100 * figures[name] for figures in (before, after) if name in figures]
            change = f" ({known[-1] - known[0]:+.1f})" if len(known) > 1 else ""
            cells.append(" -> ".join(f"{value:.1f}" for value in known) + change)
        table.add_row(*group.split("/"), *cells)
    if groups:
        with console.results():
            if before:
                console.out.print(f"Before and after {'stage 2' if tuned else 'training'}:")
            console.out.print(table)
