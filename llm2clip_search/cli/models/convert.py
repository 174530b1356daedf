"""``llm2clip-search models convert``: a published LLM2CLIP checkpoint into a model folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console


def convert_model(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="A published folder, or its .safetensors, .pt or .bin.", show_default=False),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="The model folder to write; it must not exist.", show_default=False)
    ],
    llm: Annotated[
        str | None,
        typer.Option(
            help="The LLM, hf:OWNER/REPO or dir:PATH. Default: the one that the adaptor was trained on.",
            show_default=False,
        ),
    ] = None,
    lora: Annotated[
        Path | None,
        typer.Option(help="Folder of PEFT updates of the LLM. Default: one found in SRC.", show_default=False),
    ] = None,
    pixels: Annotated[
        Literal["auto", "openai", "siglip"],
        typer.Option(
            help="openai crops and has CLIP's mean and deviation, siglip squashes and has 0.5; auto is SRC's"
            " preprocessor_config.json, else openai, which the published towers were all trained with."
        ),
    ] = "auto",
    licence: Annotated[str, typer.Option(help="To state in the model card.")] = "unknown",
) -> None:
    """Convert a published LLM2CLIP checkpoint, in the Hugging Face layout or the training repository's.

    No code of the checkpoint runs, every key is accounted for, and tensors keep their precision. Afterwards
    --model dir:DST takes it.

    [dim]llm2clip-search models convert ./LLM2CLIP-EVA02-L-14-336.pt ./eva02 --llm dir:./llama-8b-cc[/dim]
    """
    from llm2clip_search.encoders.checkpoints.convert import PIXELS, convert
    from llm2clip_search.encoders.registry import resolve

    config = convert(
        source,
        destination,
        llm=llm,
        lora=lora,
        licence=licence,
        pixels=None if pixels == "auto" else PIXELS[pixels],
    )
    size = config.vision.preprocess
    console.out.print(
        f"{destination}: {size.height}x{size.width} pixels, {config.text.max_tokens} tokens, {config.dim} dimensions,"
        f" LLM {config.text.weights} ({resolve(f'dir:{destination}').identity.fingerprint})",
        markup=False,
    )
