"""``llm2clip-search train recipes``: list the recipes."""

from llm2clip_search.cli import console


def recipes() -> None:
    """List the recipes with their towers, number of images, and steps x batch size of both stages.

    [dim]llm2clip-search train recipes[/dim]
    """
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
    console.out.print(table)
