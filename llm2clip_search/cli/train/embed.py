"""``llm2clip-search train embed``: embed all captions with the caption-tuned LLM."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import DataFolder, Device, RecipeName, Settings
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
) -> None:
    """Between the stages: embed every caption once, so that stage 2 does not run the LLM.

    Captions already in the store are skipped, so an interrupted run is resumed and new captions are added.

    [dim]llm2clip-search train embed nano --data ./data --llm ./llm --out ./captions[/dim]
    """
    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.encoders.placement import pick_device
    from llm2clip_search.training import find_recipe
    from llm2clip_search.training.stages import train_embed

    chosen = find_recipe(recipe, settings or ())
    with ProgressBar(log=True) as progress:
        done, rows = train_embed(
            chosen.stage2,
            chosen.data,
            root=data,
            llm=llm,
            out=out,
            device=pick_device(device),
            dtype=dtype,
            progress=progress,
        )
    console.say(f"{done:,} captions embedded; {out} holds {rows:,}.")
