"""``llm2clip-search bench ablations``: variants of a recipe, trained and compared."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import DataFolder, Device, RecipeName, Settings


def bench_ablations(
    recipe: RecipeName = "nano-frozen",
    data: DataFolder = Path(),
    out: Annotated[
        Path, typer.Option(help="Folder for what is made; the next call does not repeat runs that it holds.")
    ] = Path("ablations"),
    llm: Annotated[
        str,
        typer.Option(
            help="Folder that train captions wrote, or a model whose LLM is taken, such as nano; without it, stage 1 is"
            " trained.",
            show_default=False,
        ),
    ] = "",
    study: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with other questions and variants; by default, those of LLM2CLIP's paper.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    settings: Settings = None,
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train variants of a recipe on the same data, and compare their recall: the ablations of LLM2CLIP.

    By default: the LLM as published or after stage 1, frozen or trained in every step, adaptors of several depths,
    CLIP's text tower beside the LLM, short or long captions, and what is forgotten. A variant that cannot be trained
    is left out, and said.

    [dim]llm2clip-search bench ablations nano-frozen --data ./data --llm nano[/dim]
    [dim]llm2clip-search bench ablations my.toml --study questions.toml --seeds 5[/dim]
    """
    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.encoders.placement import pick_device
    from llm2clip_search.training.ablations import run_study
    from llm2clip_search.training.recipes.study import read_study

    questions = read_study(study)
    with ProgressBar(log=True) as progress:
        result = run_study(
            questions,
            recipe,
            settings or (),
            root=data,
            out=out,
            llm=_llm_folder(llm),
            seeds=seeds,
            device=pick_device(device),
            progress=progress,
        )
    written = out / "ablations.md"
    written.write_text(result.to_markdown(), encoding="utf-8")
    with console.results():
        if json_output:
            console.print_json(result.to_dict())
        else:
            for number, question in enumerate(result.questions):
                if number:
                    console.out.print()
                table = console.table("", *result.columns(), left=("",), title=question.name)
                for name, cells in result.rows(question):
                    table.add_row(name, *cells)
                console.out.print(table)
    for name, why in result.failures().items():
        console.warn(f"{name} was not measured: {why}")
    console.say(f"tables written to {written}")


def _llm_folder(name: str) -> Path | None:
    """The folder of an LLM or of a model; None for none."""
    from llm2clip_search.encoders.registry import fetch_model
    from llm2clip_search.errors import ModelError

    if not name or Path(name).is_dir():
        return Path(name) if name else None
    folder = fetch_model(name).folder
    if folder is None:
        raise ModelError(f"The LLM of {name} cannot be taken: only models in a folder of their own have one.")
    return folder
