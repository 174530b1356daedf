"""``llm2clip-search train recipes``: list the recipes, or show one."""

from typing import Annotated

import typer

from llm2clip_search.cli import console

recipes = typer.Typer()


@recipes.callback(invoke_without_command=True)
def listed(context: typer.Context) -> None:
    """List the recipes with their towers, number of images, and steps x batch size of both stages; or show one.

    [dim]llm2clip-search train recipes[/dim]
    [dim]llm2clip-search train recipes show nano > my.toml[/dim]
    """
    if context.invoked_subcommand is not None:
        return
    from llm2clip_search.training import RECIPES

    left = ("recipe", "LLM", "vision tower")
    table = console.table(*left, "images", "stage 1", "stage 2", left=left)
    for recipe in RECIPES.values():
        vision, text = recipe.stage2.model.vision, recipe.stage1.text
        table.add_row(
            recipe.name,
            (text.weights or "").partition("#")[0].rpartition("/")[2],
            f"{vision.architecture}, {vision.preprocess.height} px",
            f"{recipe.size.images:,}",
            f"{recipe.stage1.loop.steps:,} x {recipe.stage1.batch_size:,}",
            f"{recipe.stage2.loop.steps:,} x {recipe.stage2.batch_size:,}",
        )
    with console.results():
        console.out.print(table)


@recipes.command()
def show(name: Annotated[str, typer.Argument(help="Name of a recipe.")]) -> None:
    """Print a recipe as a file that the training commands take; fields that are not there have their defaults.

    [dim]llm2clip-search train recipes show nano > my.toml[/dim]
    """
    from llm2clip_search.training.recipes.registry import recipe_text

    with console.results():
        console.print_bytes(recipe_text(name).encode())
