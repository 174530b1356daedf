"""``llm2clip-search models average``: one model from several runs."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console


def average_models(
    names: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Names of two or more models, as dir:PATH.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The model folder to write; it must not exist.", show_default=False)],
) -> None:
    """Average the weights of models that were trained from the same initial weights, on the same LLM.

    The average of a few runs with different hyperparameters is often better than the best of them, and costs no more
    than one. models calibrate fits its probabilities again.

    [dim]llm2clip-search models average dir:./run-a dir:./run-b --out ./both[/dim]
    """
    from llm2clip_search.encoders.average import average_models as average
    from llm2clip_search.encoders.registry import resolve

    average([resolve(name) for name in names], out)
    console.out.print(f"{out}: the average of {len(names)} models, as dir:{out}", markup=False)
