"""``llm2clip-search models recommend``: which published model to use."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.sizes import gigabytes, to_bytes

if TYPE_CHECKING:
    from llm2clip_search.encoders.memory_fit import DeviceMemory
    from llm2clip_search.encoders.recommendation import Recommendation


def recommend_models(
    gpu: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Memory of the GPU that will run it, such as 24GB. Default: this machine."),
    ] = "",
    lang: Annotated[
        list[str] | None,
        typer.Option(help="A language of the captions, such as zh; may be repeated.", show_default=False),
    ] = None,
    tokens: Annotated[int, typer.Option(min=0, help="Length of the longest captions in tokens.")] = 0,
    free: Annotated[
        bool, typer.Option("--free", help="Only weights under Apache 2.0 or MIT, the LLM's included.")
    ] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of models.")] = 5,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
) -> None:
    """Say which published models suit, the one with the best published recall first.

    Both towers have to fit. Recalls are image R@1 as published, the mean over sets with short and with long captions;
    models without them follow, the largest first.

    [dim]llm2clip-search models recommend --tokens 200[/dim]
    [dim]llm2clip-search models recommend --lang de --lang zh --gpu 8GB[/dim]
    [dim]llm2clip-search models recommend --free --json[/dim]
    """
    from llm2clip_search.encoders.catalogue import catalogue_models
    from llm2clip_search.encoders.memory_fit import DeviceMemory, machine_memory
    from llm2clip_search.encoders.placement import BYTES_PER_PARAMETER
    from llm2clip_search.encoders.recommendation import Needs, recommend

    devices = machine_memory()
    if gpu:
        per_parameter = BYTES_PER_PARAMETER["none"]
        devices = (DeviceMemory(device="cuda", bytes=to_bytes(gpu), bytes_per_parameter=per_parameter),)
    needs = Needs(languages=tuple(lang or ()), tokens=tokens, free=free)
    found = recommend(catalogue_models().values(), needs, devices)
    with console.results():
        if json_output:
            for each in found[:k]:
                print(json.dumps(each.model.to_dict() | {"image_r1_short": each.short, "image_r1_long": each.long}))
        elif found:
            _print_table(found[:k], devices)
    memory = ", ".join(f"{device.device} {gigabytes(device.bytes)}" for device in devices)
    if not found:
        console.say(f"No model of the catalogue does this with {memory}.")
    elif not json_output:
        console.say(f"Models of the catalogue that suit, with {memory}: {len(found)}.")
        console.say(f"More about the first: llm2clip-search models show {found[0].model.name}")


def _print_table(found: "list[Recommendation]", devices: "tuple[DeviceMemory, ...]") -> None:
    from llm2clip_search.encoders.memory_fit import first_fitting

    def required(count: int) -> str:
        return gigabytes((first_fitting(count, devices) or devices[0]).required(count))

    columns = ("name", "R@1 short", "R@1 long", "tokens", "to index", "to query", "languages", "licence")
    table = console.table(*columns, left=("name", "languages", "licence"))
    for each in found:
        model = each.model
        table.add_row(
            model.name,
            *("-" if value is None else f"{value:.1f}" for value in (each.short, each.long)),
            str(model.max_tokens),
            required(model.vision_parameters),
            required(model.text_parameters),
            model.languages or "unknown",
            model.licence or "unknown",
        )
    console.out.print(table)
