"""``llm2clip-search duplicates``: groups of near-duplicate images."""

import os
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from llm2clip_search.cli import console
from llm2clip_search.cli.options import IndexFolder
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    from llm2clip_search.engine import Duplicates

SHOWN = 10
"""Images of a group that the table names besides the best one."""
GROUPS_SHOWN = 100
"""Groups that the table shows: it is laid out as a whole."""


def duplicates(
    threshold: Annotated[
        float, typer.Option(help="Least cosine of two images that are near-duplicates, above 0 and at most 1.")
    ] = 0.95,
    find: Annotated[
        Literal["images", "texts"] | None,
        typer.Option(
            help="What to compare. Default: what the index holds, and images if it holds both.", show_default=False
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition; only images that meet it are compared.", show_default=False),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object per group and line.")] = False,
    paths: Annotated[
        bool, typer.Option("--paths", help="Print the paths of all but the best image of each group, one per line.")
    ] = False,
    null: Annotated[bool, typer.Option("-0", "--null", help="As --paths, each path ended by a zero byte.")] = False,
    index: IndexFolder = None,
) -> None:
    """Find groups of near-duplicate images, or texts, in an index.

    Images are in one group if their vectors have at least the given cosine, directly or through other images of the
    group. The best image of a group is the largest picture. No model is loaded.

    [dim]llm2clip-search duplicates --threshold 0.97[/dim]
    [dim]llm2clip-search duplicates --where "path LIKE '%/2024/%'" --json[/dim]
    """
    from llm2clip_search.engine import SearchIndex, find_duplicates
    from llm2clip_search.store import Snapshot, find_index

    opened = SearchIndex(Snapshot(index or find_index()))
    with ProgressBar() as progress:
        found = find_duplicates(opened, threshold=threshold, find=find, where=where, progress=progress)
    with console.results():
        if json_output:
            for group in found:
                console.print_json(group.to_dict())
        elif paths or null:
            for group in found:
                paths_of_it = (os.fsencode(other["path"]) for other in group.others)
                console.print_bytes(b"".join(path + (b"\0" if null else b"\n") for path in paths_of_it))
        elif len(found):
            _print_table(found)
    members = sum(map(len, found.groups))
    console.say(
        f"{len(found):,} groups with {members:,} of {found.compared:,} {found.find};"
        f" {members - len(found):,} are duplicates of a larger or equal"
        f" {'picture' if found.find == 'images' else 'text'}"
    )
    if len(found) > GROUPS_SHOWN and not (json_output or paths or null):
        console.say(f"The table shows the {GROUPS_SHOWN} largest groups; --json and --paths print all.")
    if not found.is_exact:
        console.warn(
            f"{found.compared:,} {found.find} are too many to compare each with each: the nearest of each were"
            " searched, and pairs may be missed"
        )


def _print_table(found: "Duplicates") -> None:
    """One line per image; the best one of a group carries the number of its images."""
    table = console.table(found.find, "cosine", "id", "size", found.find[:-1], left=(found.find[:-1],))
    for group in islice(found, GROUPS_SHOWN):
        for number, row in enumerate([group.best, *group.others[:SHOWN]]):
            first = [str(len(group)), ""] if number == 0 else ["", f"{row['score']:.3f}"]
            name = escape(console.printable(row["path"]))
            size = f"{row['width']}x{row['height']}" if found.find == "images" else f"{row['size']:,}"
            table.add_row(*first, str(row["id"]), size, name)
        if len(group.others) > SHOWN:
            table.add_row("", "", "", "", f"and {len(group.others) - SHOWN:,} more")
    console.out.print(table)
