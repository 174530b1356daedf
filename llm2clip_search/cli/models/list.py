"""``llm2clip-search models list``: the models that have a name, and which of them fit this machine."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.sizes import gigabytes, parameters

if TYPE_CHECKING:
    from llm2clip_search.encoders.catalogue import CatalogueModel
    from llm2clip_search.encoders.memory_fit import Fit, Memory

_WIDE = 160
"""Columns of a terminal that shows every column of the table."""
_OTHERS = {
    "open_clip:ARCH/TAG": "any other of open_clip's",
    "hf:OWNER/REPO": "CLIP or SigLIP of transformers, on the hub",
    "dir:PATH": "a model folder of this project, or of transformers",
}


def list_models(
    fits: Annotated[
        bool, typer.Option("--fits", help="Only those whose both towers fit this machine's memory.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object a model.")] = False,
) -> None:
    """List the models that have a name, and the memory that each needs to index images and to be asked.

    The two towers are loaded each by itself: indexing needs the vision tower alone. Memory is that of the weights, at
    the precision that they have on this machine.

    [dim]llm2clip-search models list --fits[/dim]
    """
    from llm2clip_search.encoders.catalogue import catalogue_models
    from llm2clip_search.encoders.memory_fit import fit, machine_memory

    places = machine_memory()
    rows = [(model, fit(model, places)) for model in catalogue_models().values()]
    kept = [(model, here) for model, here in rows if here == "yes" or not fits]
    with console.results():
        if json_output:
            for model, here in kept:
                print(json.dumps(model.to_dict() | {"fits": here}))
            return
        _print_table(kept, places)
    if fits and len(kept) < len(rows):
        console.say(f"{len(rows) - len(kept)} more do not fit.")


def _print_table(rows: "list[tuple[CatalogueModel, Fit]]", places: "tuple[Memory, ...]") -> None:
    from rich.markup import escape
    from rich.table import Table

    from llm2clip_search.encoders.memory_fit import place_of

    def needed(weights: int) -> str:
        return gigabytes((place_of(weights, places) or places[0]).needed(weights))

    # A terminal that is too narrow for everything shows what decides whether a model can be used here.
    words, limits = ("what it is", "languages", "licence"), ("pixels", "tokens")
    wide = console.out.width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=wide, overflow="fold")
    for column in words if wide else ():
        table.add_column(column)
    for column in (*(limits if wide else ()), "vision", "text", "to index", "to query", "fits"):
        table.add_column(column, justify="right", no_wrap=True)
    for model, here in rows:
        told = (escape(model.what), model.languages or "unknown", model.licence or "unknown")
        sizes = (str(model.image_size), str(model.max_tokens))
        table.add_row(
            model.name,
            *((*told, *sizes) if wide else ()),
            parameters(model.vision_parameters),
            parameters(model.text_parameters),
            needed(model.vision_parameters),
            needed(model.text_parameters),
            here,
        )
    for name, what in _OTHERS.items():
        table.add_row(name, *((what,) if wide else ()))
    console.out.print(table)
    memory = ", ".join(f"{place.device} {gigabytes(place.bytes)}" for place in places)
    console.out.print(f"\nMemory here: {memory}. images: the vision tower alone fits; index here, ask elsewhere.")
