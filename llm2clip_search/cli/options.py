"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

IndexFolder = Annotated[
    Path | None,
    typer.Option(
        "--index", help="Index folder. Default: the nearest .llm2clip in or above this folder.", show_default=False
    ),
]
IndexFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--index",
        help="Index folder; may be repeated. Default: the nearest .llm2clip in or above this folder.",
        show_default=False,
        metavar="FOLDER",
    ),
]
EngineUrl = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="Search where `publish` has copied the index to: qdrant:http://HOST:6333/COLLECTION, qdrant-edge:FOLDER,"
        " lance:FOLDER or lance:s3://BUCKET/PATH.",
        show_default=False,
        metavar="URL",
    ),
]
RuntimeName = Annotated[
    Literal["auto", "torch", "onnx"],
    typer.Option(
        "--runtime", help="onnx compiles the towers for the CPU when they are first used; auto prefers it on a CPU."
    ),
]
QuantizeName = Annotated[
    Literal["none", "8bit", "4bit"],
    typer.Option("--quantize", help="Load the LLM's linear layers in 8 or 4 bits; needs bitsandbytes or torchao."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A name from models list, open_clip:ARCH/TAG, hf:OWNER/REPO or dir:PATH. Default: the index's model, else"
        " nano.",
        show_default=False,
    ),
]
RecipeName = Annotated[
    str, typer.Argument(help="Name of a recipe, which train recipes lists, or a recipe file (.toml).")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Replace a value of the recipe, such as clip.loop.steps=200; may be repeated.",
        show_default=False,
    ),
]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder that the recipe's paths are relative to.")]
ShardingName = Annotated[
    Literal["replicate", "shard"],
    typer.Option("--sharding", help="With torchrun: shard splits every parameter over the GPUs (FSDP2)."),
]
AnnKind = Annotated[
    Literal["auto", "flat", "hnsw", "ivf", "ivfpq", "ivfrabitq", "cagra"] | None,
    typer.Option(
        "--ann",
        help="Kind of approximate index; flat is exact search, auto builds inverted lists from 100,000 images on."
        " Default: as the last time, else auto.",
        show_default=False,
    ),
]
Recall = Annotated[
    float | None,
    typer.Option(
        "--recall",
        help="Share of the exact results that approximate search aims at. Default: as the last time, else 0.95.",
        show_default=False,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help="Memory that the approximate index may take, such as 4GB. Default: as the last time, else half of the"
        " machine's.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print parameters, memory and time per step without loading or training anything."),
]
