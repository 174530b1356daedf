"""``llm2clip-search train embed``: embed all captions with the caption-tuned LLM."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.cluster_options import Encoders, GpusPerEncoder, On, Staging, cluster_config
from llm2clip_search.cli.options import DataFolder, Device, DryRun, RecipeName, Settings
from llm2clip_search.cli.train.options import LLMFolderOption


def embed(
    recipe: RecipeName = "nano",
    data: DataFolder = Path(),
    settings: Settings = None,
    llm: LLMFolderOption = Path("llm"),
    out: Annotated[Path, typer.Option(help="Caption store to write or to complete.")] = Path("captions"),
    dtype: Annotated[
        Literal["float16", "float32"],
        typer.Option(help="Precision of the stored embeddings; float32 takes twice the space."),
    ] = "float16",
    device: Device = "auto",
    dry_run: DryRun = False,
    on: On = None,
    staging: Staging = None,
    encoders: Encoders = None,
    gpus_per_encoder: GpusPerEncoder = 1.0,
) -> None:
    """Between the stages: embed every caption once, so that stage 2 does not run the LLM.

    Captions already in the store are skipped, so an interrupted run is resumed and new captions are added.

    [dim]llm2clip-search train embed nano --data ./data --llm ./llm --out ./captions[/dim]
    """
    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.encoders.placement import pick_device
    from llm2clip_search.training import find_recipe
    from llm2clip_search.training.stages import train_embed

    cluster = cluster_config(on, staging, encoders, gpus_per_encoder)
    chosen = find_recipe(recipe, settings or ())
    if dry_run:
        from llm2clip_search.cli.train.dry_run import print_estimate
        from llm2clip_search.training.dry_run import estimate_embed
        from llm2clip_search.training.runtime.costs import measure_flops

        print_estimate(estimate_embed(chosen, measure_flops(pick_device(device), bf16=False)))
        return
    with ProgressBar(log=True) as progress:
        done, rows = train_embed(
            chosen.stage2,
            chosen.data,
            root=data,
            llm=llm,
            out=out,
            device=device if cluster is not None else pick_device(device),
            dtype=dtype,
            cluster=cluster,
            progress=progress,
        )
    console.say(f"{done:,} captions embedded; {out} holds {rows:,}.")
