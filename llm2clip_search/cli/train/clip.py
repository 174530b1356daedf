"""``llm2clip-search train clip``: stage 2."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli.options import DataFolder, Device, DryRun, RecipeName, Settings, ShardingName
from llm2clip_search.cli.train.options import CaptionStoreOption, LLMFolderOption


def clip(
    recipe: RecipeName = "nano",
    data: DataFolder = Path(),
    settings: Settings = None,
    llm: LLMFolderOption = Path("llm"),
    captions: CaptionStoreOption = Path("captions"),
    out: Annotated[Path, typer.Option(help="Model folder to write; an interrupted run is resumed.")] = Path("model"),
    device: Device = "auto",
    sharding: ShardingName = "replicate",
    dry_run: DryRun = False,
) -> None:
    """Stage 2: train a vision tower and an adaptor on images and stored caption embeddings.

    To use several GPUs: torchrun --nproc-per-node 8 -m llm2clip_search train clip ...

    [dim]llm2clip-search train clip nano --data ./data --llm ./llm --captions ./captions --out ./my-nano[/dim]
    """
    from llm2clip_search.training import find_recipe

    chosen = find_recipe(recipe, settings or ())
    if dry_run:
        from llm2clip_search.cli.train.dry_run import print_estimate
        from llm2clip_search.encoders.placement import pick_device
        from llm2clip_search.training.dry_run import estimate_clip, estimate_embed
        from llm2clip_search.training.runtime.costs import measure_flops

        where = pick_device(device)
        print_estimate(estimate_embed(chosen, measure_flops(where, bf16=False)))
        print_estimate(estimate_clip(chosen, measure_flops(where, bf16=chosen.stage2.bf16)))
        return
    from llm2clip_search.cli.train.run import run_stage
    from llm2clip_search.training.stages import train_clip

    run_stage(
        lambda world, progress: train_clip(
            chosen.stage2, chosen.data, root=data, llm=llm, store=captions, out=out, world=world, progress=progress
        ),
        device=device,
        sharding=sharding,
        done=f"Written to {out}; use it with --model dir:{out}.",
    )
