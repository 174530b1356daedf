"""``llm2clip-search train captions``: stage 1."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import DataFolder, Device, DryRun, RecipeName, ShardingName


def train_captions(
    recipe: RecipeName = "nano",
    data: DataFolder = Path(),
    out: Annotated[Path, typer.Option(help="Folder of the caption-tuned LLM; a run that was cut off goes on.")] = Path(
        "llm"
    ),
    device: Device = "auto",
    sharding: ShardingName = "replicate",
    dry_run: DryRun = False,
) -> None:
    """Stage 1: an LLM learns that captions of one photograph mean the same.

    For several GPUs start it as torchrun --nproc-per-node 8 -m llm2clip_search train captions ...

    [dim]llm2clip-search train captions nano --data ./data --out ./llm[/dim]
    """
    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.training import find_recipe, stages
    from llm2clip_search.training.runtime import distributed

    chosen = find_recipe(recipe)
    if dry_run:
        from llm2clip_search.cli.train.dry_run import print_estimate
        from llm2clip_search.encoders.placement import pick_device
        from llm2clip_search.training.dry_run import estimate_captions
        from llm2clip_search.training.runtime.costs import measure_flops

        print_estimate(estimate_captions(chosen, measure_flops(pick_device(device), bf16=chosen.stage1.bf16)))
        return
    world = distributed.join_process_group(device, sharding)
    with ProgressBar(log=True) as progress:
        figures = stages.train_captions(chosen.stage1, chosen.data, root=data, out=out, world=world, progress=progress)
    if world.is_main:
        for name, value in figures.items():
            console.out.print(f"dev {name} {value:.4f}")
        console.say(f"Written to {out}; train embed runs it over all captions.")
