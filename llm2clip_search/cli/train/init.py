"""``llm2clip-search train init``: look at own data and write a recipe for it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.errors import InputError

if TYPE_CHECKING:
    from llm2clip_search.training.data.own_report import SplitReport


def init(
    recipe: Annotated[Path, typer.Argument(help="Recipe file to write; its name is that of the model.")],
    data: Annotated[
        list[str], typer.Option("--data", help="Images with captions: a folder, table, shards ...; may be repeated.")
    ],
    captions: Annotated[
        str, typer.Option(help="A table with captions of these images, if they are not in the source itself.")
    ] = "",
    split: Annotated[str, typer.Option(help="Use only rows with this value in their column split.")] = "",
    lang: Annotated[str, typer.Option(help="Language of the captions, such as en, if no column says it.")] = "",
    val: Annotated[
        list[str] | None,
        typer.Option(
            help="Images with captions for validation. Default: those of --val-split, or a share of the photographs.",
            show_default=False,
        ),
    ] = None,
    val_captions: Annotated[
        str, typer.Option(help="A table with captions of --val. Default, with --val-split: that of --captions.")
    ] = "",
    val_split: Annotated[
        str, typer.Option(help="Value of the column split for validation; without --val, of the table of --data.")
    ] = "",
    evaluate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="A set that shows what the model forgets; may be repeated.",
            show_default=False,
        ),
    ] = None,
    evaluate_captions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TABLE",
            help="A table with captions of the set of that name in --evaluate; may be repeated.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[str, typer.Option("--from", help="The model to begin from, as for --model.")] = "nano",
    llm: Annotated[
        str, typer.Option(help="The model whose LLM reads captions, if --from names a CLIP or SigLIP model.")
    ] = "nano",
    tune_llm: Annotated[
        bool, typer.Option("--tune-llm", help="Train the LLM on the captions too, before the vision tower (stage 1).")
    ] = False,
) -> None:
    """Look at images with captions, say what was found, and write a commented recipe that train run takes.

    A source is what index takes: a folder with captions beside its images (text files with one caption a line, XMP
    sidecars), a table that names or holds images, tar shards, data sets of Hugging Face.

    [dim]llm2clip-search train init birds.toml --data ./birds --lang en[/dim]
    [dim]llm2clip-search train init birds.toml --data ./birds --captions birds.csv --from dir:./my-model[/dim]
    [dim]llm2clip-search train init birds.toml --data ./birds --captions birds.csv --split train --val-split val[/dim]
    [dim]llm2clip-search train init birds.toml --data ./birds --tune-llm[/dim]
    [dim]llm2clip-search train init birds.toml --data ./birds --from open_clip:ViT-B-32/laion2b_s34b_b79k[/dim]
    """
    from llm2clip_search.base.memory import physical_bytes
    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.encoders.placement import pick_device
    from llm2clip_search.training.data.own_data import read_own_data
    from llm2clip_search.training.data.own_recipe import EvaluationSource, OwnData, OwnSource
    from llm2clip_search.training.data.own_report import report
    from llm2clip_search.training.own_estimate import memory_of_stages, memory_sentence
    from llm2clip_search.training.recipes.own import folder_of, read_own_recipe
    from llm2clip_search.training.recipes.own_template import own_recipe_text
    from llm2clip_search.training.runtime.mixed_precision import StepKind, compare_precisions
    from llm2clip_search.training.tasks.empty_towers import is_convolutional
    from llm2clip_search.training.tasks.start_model import fetch_start

    if val_captions and not val:
        raise InputError("--val-captions names captions of --val, which is missing.", hint="Add --val, or omit it.")
    if recipe.suffix != ".toml":
        raise InputError(f"{recipe} is no recipe file: its name has to end in .toml.")
    if recipe.exists():
        raise InputError(f"{recipe} exists.", hint="Delete it, or name another file.")
    named = _named("--evaluate", "SOURCE", evaluate or ())
    tables = _named("--evaluate-captions", "TABLE", evaluate_captions or ())
    if unknown := next((name for name in tables if name not in named), None):
        raise InputError(f"--evaluate-captions names the set {unknown!r}, which --evaluate does not.")
    folder = folder_of(str(recipe))
    train = tuple(
        OwnSource(source=_relative(each, folder), captions=_relative(captions, folder), split=split, lang=lang)
        for each in data
    )
    val_table = val_captions or (captions if val_split else "")
    others = tuple(
        OwnSource(source=_relative(each, folder), captions=_relative(val_table, folder), split=val_split, lang=lang)
        for each in val or (data if val_split else ())
    )
    sets = tuple(
        EvaluationSource(
            name=name, source=_relative(each, folder), captions=_relative(tables.get(name, ""), folder), lang=lang
        )
        for name, each in named.items()
    )
    begin = fetch_start(start, llm)
    tokenizer = begin.llm.tokenizer()
    with ProgressBar() as progress:
        found = read_own_data(OwnData(train=train, val=others), sets, folder=folder, progress=progress)
    reports = [report(name, images, tokenizer.count) for name, images in found.splits.items()]
    _print_found(reports, found.left_out)
    if tune_llm and reports[0].most < 2:
        raise InputError(
            "Stage 1 learns from images with two captions or more, but no training image has more than one.",
            hint="Omit --tune-llm.",
        )
    device = pick_device("auto")
    kind: StepKind = "convolutions" if is_convolutional(begin.model.config.vision) else "matrix products"
    vision_times = compare_precisions(device, kind)
    llm_times = compare_precisions(device, "matrix products") if tune_llm else vision_times
    for each in dict.fromkeys((vision_times, llm_times)):
        console.say(f"Measured: {each}; so bf16 = {str(each.prefers_bf16).lower()}.")
    text = own_recipe_text(
        recipe.stem,
        start,
        llm=llm if begin.is_dual else "",
        tunes_llm=tune_llm,
        train=train,
        val=others,
        evaluation=sets,
        found=reports[0],
        vision_times=vision_times,
        llm_times=llm_times,
    )
    recipe.write_text(text, encoding="utf-8")
    needed = memory_of_stages(read_own_recipe(str(recipe)), found.counts())
    if said := memory_sentence(needed, physical_bytes() if device == "cpu" else 0):
        console.say(said)
    console.say(f"Written to {recipe}; train with it by train run {recipe}.")


def _named(option: str, what: str, values: Sequence[str]) -> dict[str, str]:
    """The values of an option that is written NAME=VALUE, by name."""
    found = dict[str, str]()
    for each in values:
        name, _, value = each.partition("=")
        if not (name and value):
            raise InputError(f"{each!r} is not what {option} takes, which is NAME={what}.")
        if name in found:
            raise InputError(f"{option} has the name {name!r} twice.")
        found[name] = value
    return found


def _relative(source: str, folder: Path) -> str:
    """A path as a recipe has it: relative to its folder, unless it is absolute, an address or nothing."""
    if not source or "://" in source or Path(source).expanduser().is_absolute():
        return source
    return os.path.relpath(source, folder)


def _print_found(reports: "list[SplitReport]", left_out: list[tuple[str, str, str]]) -> None:
    from rich.markup import escape

    columns = ("split", "images", "captions", "an image has", "tokens, mean", "longest", "languages")
    table = console.table(*columns, left=("split", "languages"))
    for each in reports:
        several = f"{each.fewest} to {each.most}" if each.most > each.fewest else str(each.most)
        langs = ", ".join(f"{'unknown' if lang == 'und' else lang} {count:,}" for lang, count in each.langs.items())
        figures = (f"{each.tokens:.0f}", f"{each.longest:,}")
        table.add_row(each.name, f"{each.images:,}", f"{each.captions:,}", several, *figures, escape(langs))
    with console.results():
        console.out.print(table)
    reasons = list(dict.fromkeys(reason for reason, _, _ in left_out))
    for reason in reasons:
        items = [(name, detail) for why, name, detail in left_out if why == reason]
        name, detail = items[0]
        example = f"such as {name}" + (f" ({detail})" if detail else "")
        console.say(f"left out: {console.number_of(len(items), reason)}, {example}")
