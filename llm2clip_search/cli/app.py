"""The command tree. Heavy libraries are imported when a command runs, so that ``--help`` answers at once."""

import warnings
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench import bench
from llm2clip_search.cli.compact import compact
from llm2clip_search.cli.demo import demo
from llm2clip_search.cli.duplicates import duplicates
from llm2clip_search.cli.index import index
from llm2clip_search.cli.info import info
from llm2clip_search.cli.mcp import mcp
from llm2clip_search.cli.merge import merge
from llm2clip_search.cli.models import models
from llm2clip_search.cli.publish import publish
from llm2clip_search.cli.query import query
from llm2clip_search.cli.query_command import QueryCommand
from llm2clip_search.cli.repair import repair
from llm2clip_search.cli.serve import serve
from llm2clip_search.cli.sources import sources
from llm2clip_search.cli.train import train
from llm2clip_search.cli.verify import verify

app = typer.Typer(
    name="llm2clip-search",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("llm2clip-search"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find images by long, precise captions in any language."""
    console.debug = debug
    console.show_log(debug=debug)


app.command()(index)
app.command(cls=QueryCommand)(query)
app.command()(serve)
app.command()(mcp)
app.command()(duplicates)
app.command()(info)
app.add_typer(sources, name="sources")
app.command()(compact)
app.command()(merge)
app.command()(publish)
app.command()(verify)
app.command()(repair)
app.command()(demo)
app.add_typer(models, name="models")
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")


def main() -> None:
    """Entry point of the ``llm2clip-search`` command."""
    # Pillow warns of damaged EXIF and the like; what matters is in the failures.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    console.tolerate_any_encoding()
    with console.errors_as_sentences():
        app()
