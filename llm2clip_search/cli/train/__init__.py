"""``llm2clip-search train``: train an encoder, stage by stage."""

import typer

from llm2clip_search.cli.train.captions import captions
from llm2clip_search.cli.train.clip import clip
from llm2clip_search.cli.train.compare import compare
from llm2clip_search.cli.train.embed import embed
from llm2clip_search.cli.train.init import init
from llm2clip_search.cli.train.recipes import recipes
from llm2clip_search.cli.train.run_all import run

train = typer.Typer(no_args_is_help=True, help="Train an encoder: on own data by init and run, or stage by stage.")


@train.callback()
def prepare() -> None:
    """Set up the process for training."""
    from llm2clip_search.training.runtime.allocator import keep_freed_memory

    keep_freed_memory()


train.command()(init)
train.command()(run)
train.command()(compare)
train.command()(captions)
train.command()(embed)
train.command()(clip)
train.add_typer(recipes, name="recipes")
