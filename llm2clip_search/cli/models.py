"""``llm2clip-search models``: the encoders there are, what they are made of, and fetching them."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from llm2clip_search.cli import console
from llm2clip_search.cli.options import RuntimeName

if TYPE_CHECKING:
    from llm2clip_search.encoders.config import TextConfig, VisionConfig

models = typer.Typer(no_args_is_help=True, help="List, show and fetch encoders.")

Name = Annotated[str, typer.Argument(help="A model's name, as for --model.", show_default=False)]


@models.command("list")
def list_models() -> None:
    """List the packaged model and examples of what else --model takes."""
    from rich.table import Table

    from llm2clip_search.encoders.catalogue import EXAMPLES, PACKAGED, resolve

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "what it is"):
        table.add_column(column)
    for name in PACKAGED:
        config = resolve(name).config
        size = config.vision.preprocess
        table.add_row(
            name,
            f"comes along; {config.text.max_tokens} tokens, {size.height}x{size.width} pixels, {config.dim} dimensions",
        )
    for name, what in EXAMPLES.items():
        table.add_row(name, what)
    table.add_row("dir:PATH", "a model folder of this project, or of transformers (CLIP, SigLIP)")
    console.out.print(table)


@models.command("show")
def show_model(name: Name) -> None:
    """Show a model's towers, sizes, sources, training data and card."""
    from llm2clip_search.encoders.catalogue import resolve

    model = resolve(name)
    config, size = model.config, model.config.vision.preprocess
    lines = {
        "model": f"{config.name} ({model.identity.fingerprint})",
        "space": f"{config.dim} dimensions",
        "vision": f"{_tower(config.vision)}, {size.height}x{size.width} pixels",
        "": config.vision.weights or "weights in the model folder",
        "text": f"{_tower(config.text)}, {config.text.attention} attention,"
        f" {config.text.pooling} pooling, {config.text.max_tokens} tokens",
        " ": config.text.weights or "weights in the model folder",
        "licence": config.licence,
        "data": "; ".join(config.training_data) or "not stated",
    }
    for label, value in lines.items():
        console.out.print(f"[bold]{label:>8}[/bold]  {escape(value)}")
    card = model.folder / "README.md" if model.folder else None
    if card is not None and card.is_file():
        from rich.markdown import Markdown

        console.out.print()
        console.out.print(Markdown(card.read_text(encoding="utf-8")))


def _tower(config: "VisionConfig | TextConfig") -> str:
    return f"{config.library} {config.architecture}".strip()


@models.command("pull")
def pull_model(name: Name, runtime: RuntimeName = "auto") -> None:
    """Fetch a model's base weights and prepare both towers, so that it works offline afterwards."""
    import numpy as np

    from llm2clip_search.encoders import load_encoder

    encoder = load_encoder(name, runtime=runtime)
    size = encoder.preprocess
    encoder.encode_pixels(np.zeros((1, size.height, size.width, 3), dtype=np.uint8))
    encoder.encode_texts(["a caption"])
    console.out.print(f"{encoder.name} is ready ({encoder.fingerprint}).")
