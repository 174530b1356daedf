"""``llm2clip-search models export``: a model in a format that other programs read."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console


def export_model(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name of the model, as for --model.", show_default=False)
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="The folder to write; it must not exist.", show_default=False)
    ],
    to: Annotated[
        Literal["transformers", "onnx", "llm2clip"],
        typer.Option(
            "--to",
            help="transformers: the vision tower as a CLIPVisionModelWithProjection; onnx: one tower, with a"
            " description of its inputs; llm2clip: the layout of published LLM2CLIP checkpoints, without the LLM.",
        ),
    ] = "transformers",
    tower: Annotated[Literal["vision", "text"], typer.Option("--tower", help="The tower for --to onnx.")] = "vision",
) -> None:
    """Export a trained or converted model, or one of its towers.

    [dim]llm2clip-search models export dir:./eva02 ./eva02-onnx --to onnx --tower vision[/dim]
    """
    from llm2clip_search.encoders.export import export_model as export
    from llm2clip_search.encoders.registry import fetch_model

    done = export(fetch_model(name), destination, to=to, tower=tower)
    console.out.print(f"{done.folder}: {done.embeds}", markup=False)
    for file, size in done.files.items():
        console.out.print(f"{size:>15,} bytes  {file}", markup=False)
