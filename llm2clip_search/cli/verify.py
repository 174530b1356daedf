"""``llm2clip-search verify``: is every file of an index what was committed?"""

from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import IndexFolder
from llm2clip_search.cli.progress import ProgressBar


def verify(
    index: IndexFolder = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object.")] = False,
) -> None:
    """Compare every file of an index with its checksum, and name all that are damaged.

    Exits with code 1 if any is. Queries and indexing that run at the same time are not disturbed.

    [dim]llm2clip-search verify[/dim]
    """

    from rich.filesize import decimal

    from llm2clip_search.store import find_index, verify_index

    with ProgressBar() as progress:
        found = verify_index(index or find_index(), progress=progress)
    with console.results():
        if json_output:
            console.print_json(found.to_dict())
        elif not found.damaged:
            console.out.print(f"{found.files:,} files ({decimal(found.bytes)}), all checksums match")
        else:
            for file in found.damaged:
                console.out.print(f"{file.path}: {file.reason}{_images(file.images)}", markup=False)
    if found.damaged:
        counts = f"{len(found.damaged):,} of {found.files:,} files are damaged"
        if found.live:
            counts += f", with {found.affected:,} of {found.live:,} images"
        console.say(counts)
        console.say("hint: 'llm2clip-search repair' sets them aside and brings back what they held")
        raise typer.Exit(1)


def _images(count: int | None) -> str:
    return f" ({count:,} {'image' if count == 1 else 'images'})" if count else ""
