"""``llm2clip-search train clip``: stage 2."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import DataFolder, Device, DryRun, RecipeName, ShardingName


def train_clip(
    recipe: RecipeName = "nano",
    data: DataFolder = Path(),
    llm: Annotated[Path, typer.Option(help="Folder that train captions wrote.")] = Path("llm"),
    captions: Annotated[Path, typer.Option(help="Caption store that train embed wrote with that LLM.")] = Path(
        "captions"
    ),
    out: Annotated[Path, typer.Option(help="Model folder to write; a run that was cut off goes on.")] = Path("model"),
    device: Device = "auto",
    sharding: ShardingName = "replicate",
    dry_run: DryRun = False,
) -> None:
    """Stage 2: a vision tower and an adaptor learn from images and stored caption embeddings.

    For several GPUs start it as torchrun --nproc-per-node 8 -m llm2clip_search train clip ...

    [dim]llm2clip-search train clip nano --data ./data --llm ./llm --captions ./captions --out ./my-nano[/dim]
    """
    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.training import find_recipe, stages
    from llm2clip_search.training.runtime import distributed

    chosen = find_recipe(recipe)
    if dry_run:
        from llm2clip_search.cli.train.dry_run import print_estimate
        from llm2clip_search.encoders.placement import pick_device
        from llm2clip_search.training.dry_run import estimate_clip, estimate_embed
        from llm2clip_search.training.runtime.costs import measure_flops

        where = pick_device(device)
        print_estimate(estimate_embed(chosen, measure_flops(where, bf16=False)))
        print_estimate(estimate_clip(chosen, measure_flops(where, bf16=chosen.stage2.bf16)))
        return
    world = distributed.join_process_group(device, sharding)
    with ProgressBar(log=True) as progress:
        figures = stages.train_clip(
            chosen.stage2, chosen.data, root=data, llm=llm, store=captions, out=out, world=world, progress=progress
        )
    if world.is_main:
        for name, value in figures.items():
            console.out.print(f"dev {name} {value:.4f}")
        console.say(f"Written to {out}; use it with --model dir:{out}.")
