"""``llm2clip-search train``: make an encoder."""

import time
from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console

train = typer.Typer(no_args_is_help=True, help="Train encoders.")


@train.callback()
def group() -> None:
    """Train encoders."""


@train.command("heads")
def train_heads(
    recipe: Annotated[str, typer.Argument(help="A recipe's name.")] = "nano",
    data: Annotated[Path, typer.Option(help="Folder of Flickr8k's shards and captions.csv.gz.")] = Path("flickr8k"),
    out: Annotated[Path, typer.Option(help="Model folder to write.")] = Path("nano"),
    langs: Annotated[str, typer.Option(help="Languages of the captions, with commas.")] = "en",
) -> None:
    """Train the projection and adaptor of two frozen towers on Flickr8k's train split.

    [dim]llm2clip-search train heads nano --data ./flickr8k --out ./my-nano[/dim]
    """
    from llm2clip_search.errors import ModelError
    from llm2clip_search.training import RECIPES
    from llm2clip_search.training import train_heads as run

    if recipe not in RECIPES:
        raise ModelError(f"There is no recipe {recipe!r}; there are: {', '.join(RECIPES)}.")

    said = 0.0

    def report(what: str, done: int, total: int) -> None:
        """A running line in a terminal; in a log, one line every ten seconds."""
        nonlocal said
        line = f"{what}: {done:,}" + (f" of {total:,}" if total else "")
        if console.err.is_terminal:
            console.err.print(line, end="\r")
        elif time.monotonic() - said > 10.0:
            console.say(line)
            said = time.monotonic()

    recalls = run(RECIPES[recipe], data=data, out=out, langs=tuple(langs.split(",")), report=report)
    for name, value in recalls.items():
        console.out.print(f"dev {name} {value:.4f}")
    console.say(f"Written to {out}; use it with --model dir:{out}.")
