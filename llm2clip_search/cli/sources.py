"""``llm2clip-search sources``: what an index is made from; forget a folder, or follow one that has moved."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm2clip_search.base.visible import visible
from llm2clip_search.cli import console
from llm2clip_search.cli.options import IndexFolder

if TYPE_CHECKING:
    from llm2clip_search.store import Snapshot

sources = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@sources.callback(invoke_without_command=True)
def listed(context: typer.Context, index: IndexFolder = None, json_output: Json = False) -> None:
    """List what an index is made from, forget a folder, or follow one that has moved.

    The list shows each source with its images, failures, state and remembered options. The state is present, missing,
    empty (perhaps a disk that is not mounted), moved (the index was moved away from it) or unknown (it is not a folder
    of this machine).

    [dim]llm2clip-search sources[/dim]
    [dim]llm2clip-search sources move photos pictures[/dim]
    [dim]llm2clip-search sources forget photos/2019[/dim]
    """
    if context.invoked_subcommand is None:
        _show(index, json_output=json_output)
    elif index is not None or json_output:
        raise typer.BadParameter(f"options of {context.invoked_subcommand} follow its name.")


@sources.command(name="list")
def list_(index: IndexFolder = None, json_output: Json = False) -> None:
    """List the sources of an index, as sources alone does."""
    _show(index, json_output=json_output)


def _show(index: Path | None, *, json_output: bool) -> None:
    from rich.markup import escape

    from llm2clip_search.indexers import list_sources
    from llm2clip_search.store import Snapshot, find_index

    snapshot = Snapshot(index or find_index())
    found = list_sources(snapshot)
    if json_output:
        with console.results():
            for source in found:
                console.print_json(source.to_dict())
        return
    table = console.table("rows", "failures", "state", "source", "options", left=("state", "source", "options"))
    for source in found:
        options = [f"--exclude {pattern!r}" for pattern in source.exclude] + ["--all"] * source.everything
        options += ["--modality text"] * (source.modality == "text")
        options += [option_of(name, value) for name, value in source.options.items() if value not in ("files", "")]
        numbers = (f"{source.rows:,}", f"{source.failures:,}")
        table.add_row(*numbers, source.state, escape(console.printable(source.uri)), escape(visible(" ".join(options))))
    with console.results():
        console.out.print(table)
    say_if_moved(snapshot)


def option_of(name: str, value: Any) -> str:
    """A remembered option of a source as the command line has it."""
    flag = {"kind": "--as", "null_separated": "-0", "on": "--key"}.get(name, f"--{name.replace('_', '-')}")
    if name == "every":
        return f"{flag} {f'{value:g}s' if value else 'scenes'}"
    return flag if value is True else f"{flag} {quote(','.join(value) if isinstance(value, list) else value)}"


def say_if_moved(snapshot: "Snapshot") -> None:
    """A note if an index lies where its images are not, but where it lay before they are."""
    if snapshot.manifest.base in ("", snapshot.base.as_posix()):
        return  # it has not moved, and a query need not import what knows more
    from llm2clip_search.store.stranded import stranded_sources

    if stranded_sources(snapshot):
        old, new = snapshot.manifest.base, snapshot.base.as_posix()
        console.warn(
            f"the index has moved from {old} to {new}, but its images are still in {old}. To follow them, run"
            f" llm2clip-search sources move {quote(new)} {quote(old)}; the next index run does so by itself"
        )


@sources.command()
def forget(
    path: Annotated[str, typer.Argument(help="A source, or a folder within one; it need not exist.")],
    index: IndexFolder = None,
    json_output: Json = False,
) -> None:
    """Remove the images of a folder from an index. Files are not touched.

    [dim]llm2clip-search sources forget photos/2019[/dim]
    """
    from llm2clip_search.indexers import forget_source
    from llm2clip_search.store import find_index

    removed = forget_source(index or find_index(), path)
    if json_output:
        console.print_json({"path": path, "removed": removed})
    else:
        console.out.print(f"{console.images(removed)} removed from the index")
    if Path(path).is_dir():
        console.say(
            f"{path} is still there: indexing it, or a folder above it without --exclude, adds its images again"
        )


@sources.command()
def move(
    old: Annotated[str, typer.Argument(help="Where the folder was: a source, or a folder within or around some.")],
    new: Annotated[str, typer.Argument(help="Where it is now.")],
    index: IndexFolder = None,
    json_output: Json = False,
) -> None:
    """Follow a folder that was renamed or moved: only paths are rewritten, no image is read or embedded.

    [dim]llm2clip-search sources move /media/old-disk/photos /media/new-disk/photos[/dim]
    """
    from rich.markup import escape

    from llm2clip_search.indexers import move_source
    from llm2clip_search.store import find_index

    moved = move_source(index or find_index(), old, new)
    if json_output:
        console.print_json({"old": old, "new": new, "moved": moved})
    else:
        console.out.print(f"{console.images(moved)} moved to {escape(visible(new))}")
