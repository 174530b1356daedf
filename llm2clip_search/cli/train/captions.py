"""``llm2clip-search train captions``: stage 1."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli.options import DataFolder, Device, DryRun, RecipeName, Settings, ShardingName


def captions(
    recipe: RecipeName = "nano",
    data: DataFolder = Path(),
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder for the caption-tuned LLM; an interrupted run is resumed.")] = Path(
        "llm"
    ),
    device: Device = "auto",
    sharding: ShardingName = "replicate",
    dry_run: DryRun = False,
) -> None:
    """Stage 1: fine-tune an LLM, so that captions of the same photograph get similar embeddings.

    To use several GPUs: torchrun --nproc-per-node 8 -m llm2clip_search train captions ...

    [dim]llm2clip-search train captions nano --data ./data --out ./llm[/dim]
    """
    from llm2clip_search.training import find_recipe

    chosen = find_recipe(recipe, settings or ())
    if dry_run:
        from llm2clip_search.cli.train.dry_run import print_estimate
        from llm2clip_search.encoders.placement import pick_device
        from llm2clip_search.training.dry_run import estimate_captions
        from llm2clip_search.training.runtime.costs import measure_flops

        print_estimate(estimate_captions(chosen, measure_flops(pick_device(device), bf16=chosen.stage1.bf16)))
        return
    from llm2clip_search.cli.train.run import run_stage
    from llm2clip_search.training.stages import train_captions

    run_stage(
        lambda world, progress: train_captions(
            chosen.stage1, chosen.data, root=data, out=out, world=world, progress=progress
        ),
        device=device,
        sharding=sharding,
        done=f"Written to {out}; embed all captions with it by train embed.",
    )
