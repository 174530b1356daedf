"""``llm2clip-search models list``: the named models, and which of them fit on this machine."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.sizes import gigabytes, parameters

if TYPE_CHECKING:
    from llm2clip_search.encoders.catalogue import CatalogueModel
    from llm2clip_search.encoders.memory_fit import DeviceMemory, Fit

_WIDE = 160
"""Width of a terminal, in characters, from which every column of the table is shown."""
_OTHERS = {
    "open_clip:ARCH/TAG": "any other model of open_clip",
    "hf:OWNER/REPO": "a CLIP or SigLIP model of transformers, from the hub",
    "dir:PATH": "a model folder of this project, or of transformers",
}


def list_models(
    fits: Annotated[
        bool, typer.Option("--fits", help="List only models whose towers both fit in this machine's memory.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
) -> None:
    """List the named models, and the memory that each needs to index images and to query.

    The two towers are loaded separately; indexing needs only the vision tower. The memory listed is that of the
    weights, at the precision that PyTorch gives them on this machine; a query with a tower that was compiled for ONNX
    Runtime takes less.

    [dim]llm2clip-search models list --fits[/dim]
    """
    from llm2clip_search.encoders.catalogue import catalogue_models
    from llm2clip_search.encoders.memory_fit import machine_memory, model_fit

    devices = machine_memory()
    rows = [(model, model_fit(model, devices)) for model in catalogue_models().values()]
    kept = [(model, fit) for model, fit in rows if fit == "yes" or not fits]
    with console.results():
        if json_output:
            for model, fit in kept:
                print(json.dumps(model.to_dict() | {"fits": fit}))
            return
        _print_table(kept, devices)
    if fits and len(kept) < len(rows):
        console.say(f"{len(rows) - len(kept)} more do not fit.")


def _print_table(rows: "list[tuple[CatalogueModel, Fit]]", devices: "tuple[DeviceMemory, ...]") -> None:
    from rich.markup import escape

    from llm2clip_search.encoders.memory_fit import first_fitting

    def required(count: int) -> str:
        return gigabytes((first_fitting(count, devices) or devices[0]).required(count))

    # A narrow terminal shows what decides whether a model can be used here.
    wide = console.out.width >= _WIDE
    words, limits = ("description", "languages", "licence"), ("pixels", "tokens")
    numbers = (*(limits if wide else ()), "vision", "text", "to index", "to query", "fits")
    left = ("name", *words)
    table = console.table("name", *(words if wide else ()), *numbers, left=left)
    table.columns[0].no_wrap = wide
    for model, fit in rows:
        described = (escape(model.what), model.languages or "unknown", model.licence or "unknown")
        sizes = (str(model.image_size), str(model.max_tokens))
        table.add_row(
            model.name,
            *((*described, *sizes) if wide else ()),
            parameters(model.vision_parameters),
            parameters(model.text_parameters),
            required(model.vision_parameters),
            required(model.text_parameters),
            fit,
        )
    for name, what in _OTHERS.items():
        table.add_row(name, *((what,) if wide else ()))
    console.out.print(table)
    memory = ", ".join(f"{device.device} {gigabytes(device.bytes)}" for device in devices)
    console.out.print(f"\nMemory here: {memory}. images: only the vision tower fits; index here, query elsewhere.")
