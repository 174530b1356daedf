"""``llm2clip-search models convert``: a published LLM2CLIP checkpoint to a model folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm2clip_search.cli import console


def convert_model(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="A checkpoint's folder, that of a training run included, or its .safetensors, .pt or .bin file.",
            show_default=False,
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="The model folder to write; it must not exist.", show_default=False)
    ],
    llm: Annotated[
        str | None,
        typer.Option(
            help="The LLM, as hf:OWNER/REPO or dir:PATH. Default: the one that the adaptor was trained on.",
            show_default=False,
        ),
    ] = None,
    lora: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder with PEFT updates of the LLM; may be repeated, and all are added up. Default: the one in SRC.",
            show_default=False,
        ),
    ] = None,
    pixels: Annotated[
        Literal["auto", "openai", "siglip"],
        typer.Option(
            help="Image preprocessing. openai: centre crop, CLIP's mean and standard deviation; siglip: resize without"
            " keeping the aspect ratio, both 0.5; auto: SRC's preprocessor_config.json, else openai, with which all"
            " published vision towers were trained."
        ),
    ] = "auto",
    activation: Annotated[
        Literal["quick_gelu", "gelu"] | None,
        typer.Option(
            help="Activation of a plain ViT, which its keys do not show: quick_gelu if its training began with OpenAI's"
            " weights, gelu otherwise. Default: quick_gelu, with a note.",
            show_default=False,
        ),
    ] = None,
    overlong: Annotated[
        Literal["keep_suffix", "llm2vec"],
        typer.Option(
            help="Captions of more than 512 tokens. keep_suffix: cut their end, keep the end-of-turn token; llm2vec:"
            " cut and pool as LLM2CLIP's repository does, to reproduce its numbers."
        ),
    ] = "keep_suffix",
    licence: Annotated[str, typer.Option(help="Licence to state in the model card.")] = "unknown",
) -> None:
    """Convert a published LLM2CLIP checkpoint, in the Hugging Face layout or the training repository's.

    No code of the checkpoint is run, every key is accounted for, and tensors keep their precision. Other commands
    take the result as --model dir:DST.

    [dim]llm2clip-search models convert ./LLM2CLIP-EVA02-L-14-336.pt ./eva02 --llm dir:./llama-8b-cc[/dim]
    """
    from llm2clip_search.encoders.checkpoints.convert import PIXELS, convert
    from llm2clip_search.encoders.registry import resolve

    config = convert(
        source,
        destination,
        llm=llm,
        lora=lora or (),
        activation=activation,
        overlong=overlong,
        licence=licence,
        pixels=None if pixels == "auto" else PIXELS[pixels],
    )
    size = config.vision.preprocess
    console.out.print(
        f"{destination}: {size.height}x{size.width} pixels, {config.text.max_tokens} tokens, {config.dim} dimensions,"
        f" LLM {config.text.weights} ({resolve(f'dir:{destination}').identity.fingerprint})",
        markup=False,
    )
