"""``llm2clip-search bench datasets``: the data sets that can be measured, and how to get them."""

from typing import Annotated

import typer

from llm2clip_search.cli import console


def bench_datasets(
    name: Annotated[
        str | None,
        typer.Argument(help="Show what to download for this data set and where to put it.", show_default=False),
    ] = None,
) -> None:
    """List the data sets that can be measured, or show how to get one.

    [dim]llm2clip-search bench datasets flickr30k[/dim]
    """
    from llm2clip_search.benchmarks.datasets.registry import DATASETS, find_dataset

    with console.results():
        if name is not None:
            info = find_dataset(name)
            console.out.print(f"[bold]{info.title}[/bold] ({info.name})")
            console.out.print(f"languages: {', '.join(info.langs) or 'decided by its files'}")
            console.out.print(f"splits: {', '.join(info.splits) or 'decided by its files'}")
            console.out.print("how to get it (ROOT is the folder that --root names):")
            console.out.print(info.fetch, markup=False)
            return
        columns = ("name", "data set", "splits", "languages")
        table = console.table(*columns, left=columns)
        for info in DATASETS.values():
            langs = ", ".join(info.langs) if len(info.langs) <= 12 else f"{len(info.langs)} languages"
            table.add_row(info.name, info.title, ", ".join(info.splits), langs)
        console.out.print(table)
