"""Options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

IndexFolder = Annotated[
    Path | None,
    typer.Option("--index", help="Index folder. Default: the nearest .llm2clip from here upward.", show_default=False),
]
RuntimeName = Annotated[
    Literal["auto", "torch", "onnx"],
    typer.Option("--runtime", help="onnx compiles the towers for the CPU at their first use; auto prefers it there."),
]
QuantizeName = Annotated[
    Literal["none", "8bit", "4bit"],
    typer.Option("--quantize", help="Numbers of the LLM's layers in 8 or 4 bits; needs bitsandbytes or torchao."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A name of models list, open_clip:ARCH/TAG, hf:OWNER/REPO, dir:PATH. Default: the index's own, else nano.",
        show_default=False,
    ),
]
RecipeName = Annotated[str, typer.Argument(help="A recipe's name; train recipes lists them.")]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder that the recipe's paths are relative to.")]
ShardingName = Annotated[
    Literal["replicate", "shard"],
    typer.Option("--sharding", help="Under torchrun: shard leaves a piece of every parameter on each GPU (FSDP2)."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print parameters, memory and time of a step; load and train nothing.")
]
