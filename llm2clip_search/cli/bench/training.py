"""``llm2clip-search bench training``: stage 2 compared with training the LLM in every step."""

import json
from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import DataFolder, Device, RecipeName
from llm2clip_search.cli.train.options import CaptionStoreOption, LLMFolderOption


def training(
    recipe: RecipeName = "nano",
    data: DataFolder = Path(),
    llm: LLMFolderOption = Path("llm"),
    captions: CaptionStoreOption = Path("captions"),
    samples: Annotated[
        int, typer.Option(min=1, help="Images to train on with each method; rounded up to two or more batches.")
    ] = 1024,
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare training on stored caption embeddings with training the LLM in every step (LoRA).

    Both methods use the same data and the same vision tower.

    [dim]llm2clip-search bench training nano --data ./data --llm ./llm --captions ./captions[/dim]
    """

    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.encoders.placement import pick_device
    from llm2clip_search.training import find_recipe
    from llm2clip_search.training.comparison import compare_training

    with ProgressBar(log=True) as progress:
        result = compare_training(
            find_recipe(recipe),
            root=data,
            llm=llm,
            store=captions,
            samples=samples,
            device=pick_device(device),
            progress=progress,
        )
    if json_output:
        with console.results():
            print(json.dumps(result.to_dict()))
        return
    first = next(iter(result.stage2.recall), "").partition("/")[0]
    recalls = [name for name in result.stage2.recall if name.startswith(first) and not name.endswith(("@5", "@10"))]
    table = console.table("", "images", "s/image", "images/s", "peak memory", "setup", *recalls, left=("",))
    for run in (result.stage2, result.joint):
        table.add_row(
            run.method,
            f"{run.samples:,}",
            f"{run.seconds_per_sample:.4f}",
            f"{run.samples_per_second:,.1f}",
            f"{run.peak_bytes / 1e9:.2f} GB",
            f"{run.setup_seconds:,.0f} s",
            *(f"{run.recall[name]:.4f}" for name in recalls),
        )
    console.out.print(table)
    console.out.print(f"stage 2 trains {result.ratio:.1f} times as many images per second")
