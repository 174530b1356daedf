"""``llm2clip-search verify``: is every file of an index what was committed?"""

from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import IndexFolder
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    from llm2clip_search.store import Verification


def verify(
    index: IndexFolder = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Read every file, and look at what it holds: ids, vectors, the approximate index."),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object.")] = False,
) -> None:
    """Compare the files of an index with their checksums, and name all that are damaged.

    Files that have not changed since that was last done are not read again, unless --full asks for it. Exits with code
    1 if any is damaged. Queries and indexing that run at the same time are not disturbed.

    [dim]llm2clip-search verify[/dim]
    [dim]llm2clip-search verify --full[/dim]
    """

    from rich.filesize import decimal

    from llm2clip_search.store import find_index, verify_index

    with ProgressBar() as progress:
        found = verify_index(index or find_index(), full=full, progress=progress)
    with console.results():
        if json_output:
            console.print_json(found.to_dict())
        elif not found.damaged:
            console.out.print(f"{found.files:,} files ({decimal(found.bytes)}), {_outcome(found)}")
        else:
            for file in found.damaged:
                console.out.print(f"{file.path}: {file.reason}{_images(file.images)}", markup=False)
    for path in found.without_checksum:
        console.warn(
            f"{path} has no checksum: an earlier version wrote it, and nobody can tell whether it is as written"
        )
    if found.damaged:
        counts = f"{len(found.damaged):,} of {found.files:,} files are damaged"
        if found.live:
            counts += f", with {found.affected:,} of {found.live:,} images"
        console.say(counts)
        console.say("hint: 'llm2clip-search repair' sets them aside and brings back what they held")
        raise typer.Exit(1)


def _outcome(found: "Verification") -> str:
    if found.full:
        return "all checksums match, and what the files hold agrees"
    unread = found.files - found.read
    return (
        f"all checksums match; {unread:,} files are unchanged since they were compared"
        if unread
        else "all checksums match"
    )


def _images(count: int | None) -> str:
    return f" ({count:,} {'image' if count == 1 else 'images'})" if count else ""
