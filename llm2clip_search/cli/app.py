"""The commands. Heavy libraries are imported when a command runs, so that ``--help`` answers at once."""

import gc
import os
import warnings
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.later import import_later
from llm2clip_search.cli.query_command import QueryCommand
from llm2clip_search.cli.tree import Place, tree_of

COMMANDS = {
    "index": Place("index", "Index images or texts, or bring their index up to date."),
    "query": Place(
        "query", "Find images or texts by captions, images, indexed images, or sums of these.", command=QueryCommand
    ),
    "serve": Place("serve", "Serve a search page and a REST API, on this machine only unless told otherwise."),
    "mcp": Place("mcp", "Let an assistant search the index, by the Model Context Protocol over stdin and stdout."),
    "duplicates": Place("duplicates", "Find groups of near-duplicate images, or texts, in an index."),
    "info": Place(
        "info", "Show an index: images, model, size on disk, and how it is searched. `verify` checks its files."
    ),
    "compact": Place("compact", "Merge the small shards of an index and drop deleted rows from disk."),
    "merge": Place("merge", "Merge indices of one model into a new index."),
    "publish": Place(
        "publish", "Copy an index to a serving engine, or bring over what was committed since the last time."
    ),
    "verify": Place("verify", "Compare the files of an index with their checksums, and name all that are damaged."),
    "repair": Place("repair", "Set damaged files of an index aside, and bring back what they held."),
    "demo": Place("demo", "Index a few real photographs and search them, to see how it works."),
    "sources": Place("sources", "List what an index is made from, forget a folder, or follow one that has moved."),
    "models": Place("models", "List, recommend, show, fetch, convert, average, calibrate and export encoders."),
    "bench": Place("bench", "Measure recall and speed."),
    "train": Place("train", "Train an encoder: on own data by init and run, or stage by stage."),
}
"""The module of each command, and what the list of commands says of it: the first paragraph of its own help."""

app = typer.Typer(
    name="llm2clip-search",
    cls=tree_of(COMMANDS),
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


def main() -> None:
    """Entry point of the ``llm2clip-search`` command."""
    # Imports make a hundred thousand objects that stay; going through them over and over takes a tenth of a query.
    gc.set_threshold(200_000, *gc.get_threshold()[1:])
    gc.freeze()  # nor does the interpreter go through those that are there by now when it ends
    # After each product of numpy's the threads of OpenBLAS wait for another one in a loop, by default for 25 ms, and on
    # a machine with few cores whatever comes next waits for them; 2^20 cycles are less than a millisecond.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    # Pillow warns of damaged EXIF and the like; what matters is in the failures.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    # typer imports them for help in Markdown and its own tracebacks, both off here; they bring a parser and Pygments.
    import_later("rich.markdown", "Markdown")
    import_later("rich.traceback", "Traceback")
    console.tolerate_any_encoding()
    with console.errors_as_sentences():
        app()
