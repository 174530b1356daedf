"""``llm2clip-search train``: make an encoder, stage by stage."""

import typer

from llm2clip_search.cli.train.captions import train_captions
from llm2clip_search.cli.train.clip import train_clip
from llm2clip_search.cli.train.embed import train_embed
from llm2clip_search.cli.train.recipes import train_recipes

train = typer.Typer(no_args_is_help=True, help="Train encoders: captions, then embed, then clip.")


@train.callback()
def prepare() -> None:
    """Set up the process that a stage runs in."""
    from llm2clip_search.training.runtime.allocator import keep_freed_memory

    keep_freed_memory()


train.command("captions")(train_captions)
train.command("embed")(train_embed)
train.command("clip")(train_clip)
train.command("recipes")(train_recipes)
