"""``llm2clip-search train embed``: every caption through the LLM once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import DataFolder, Device, RecipeName


def train_embed(
    recipe: RecipeName = "nano",
    data: DataFolder = Path(),
    llm: Annotated[Path, typer.Option(help="Folder that train captions wrote.")] = Path("llm"),
    out: Annotated[Path, typer.Option(help="Caption store to write, or to complete.")] = Path("captions"),
    dtype: Annotated[
        Literal["float16", "float32"], typer.Option(help="Of the stored numbers; float32 takes twice the room.")
    ] = "float16",
    device: Device = "auto",
) -> None:
    """Between the stages: embed every caption once, in half precision, so that stage 2 never runs the LLM.

    Captions that the store holds already are left out: a run that was cut off goes on, new captions are added.

    [dim]llm2clip-search train embed nano --data ./data --llm ./llm --out ./captions[/dim]
    """
    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.encoders.placement import pick_device
    from llm2clip_search.training import find_recipe, stages

    chosen = find_recipe(recipe)
    with ProgressBar(log=True) as progress:
        done, rows = stages.train_embed(
            chosen.stage2,
            chosen.data,
            root=data,
            llm=llm,
            out=out,
            device=pick_device(device),
            dtype=dtype,
            progress=progress,
        )
    console.say(f"{done:,} captions embedded, {rows:,} in {out}.")
