"""``llm2clip-search bench zero-shot``: classification with classes that are given only by name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench.measured import EncoderName, print_rows
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    from rich.console import Group

    from llm2clip_search.benchmarks.zero_shot import ZeroShotResult

SHOWN = 5
"""Maximum number of damaged images, and of worst classes, to list."""


def bench_zero_shot(
    folder: Annotated[Path, typer.Argument(help="Folder with one subfolder of images per class.")],
    model: EncoderName = "nano",
    templates: Annotated[
        str,
        typer.Option(help="seven (of CLIP's), plain ('a photo of a {}.'), or a text file with one template per line."),
    ] = "seven",
    class_names: Annotated[
        Path | None,
        typer.Option(
            help="File with the names of the classes: CSV rows of subfolder and name, or a JSON object. Default: the"
            " name of the subfolder with underscores as spaces.",
            show_default=False,
        ),
    ] = None,
    lang: Annotated[str, typer.Option(help="Language of templates and names; only recorded in the JSON.")] = "en",
    max_failures: Annotated[
        int | None,
        typer.Option(
            min=0, help="Exit with code 1 if more images than this fail. Default: no limit.", show_default=False
        ),
    ] = None,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON object in CLIP_benchmark's format.")
    ] = False,
) -> None:
    """Measure zero-shot classification: acc1, acc5 and mean_per_class_recall as defined by CLIP_benchmark.

    A class is represented by the mean embedding of its prompts. Damaged images are listed and left out.

    [dim]llm2clip-search bench zero-shot ./pets --templates plain[/dim]
    """
    from llm2clip_search.benchmarks.labelled_folder import read_labelled_folder
    from llm2clip_search.benchmarks.zero_shot import classify, read_templates
    from llm2clip_search.encoders import load_encoder

    prompts = read_templates(templates)
    labelled = read_labelled_folder(folder, class_names)
    encoder = load_encoder(model, runtime=runtime, device=device)
    with ProgressBar() as progress:
        result = classify(encoder, labelled, prompts, language=lang, progress=progress)
    for note in result.notes:
        console.warn(f"{note}.")
    for failure in result.failures[:SHOWN]:
        console.warn(f"{failure.path} is left out: {failure.reason}.")
    if len(result.failures) > SHOWN:
        console.warn(f"{len(result.failures) - SHOWN:,} more images are left out; --json lists them all.")
    print_rows([result.to_dict()], lambda: _table(result), json_output=json_output)
    if max_failures is not None and len(result.failures) > max_failures:
        console.say(f"{len(result.failures)} images failed, more than --max-failures {max_failures}.")
        raise typer.Exit(1)


def _table(result: "ZeroShotResult") -> "Group":
    """A table of the metrics, followed by the classes with the lowest recall."""
    from rich.console import Group
    from rich.markup import escape

    table = console.table("images", "classes", "templates", *result.metrics)
    cells = ["-" if value is None else f"{100 * value:.1f} %" for value in result.metrics.values()]
    table.add_row(f"{result.images:,}", f"{result.classes:,}", f"{len(result.templates)}", *cells)
    worst = sorted(result.recalls.items(), key=lambda item: item[1])[:SHOWN]
    named = ", ".join(f"{name} {100 * recall:.1f} %" for name, recall in worst)
    return Group(table, f"[dim]lowest recall: {escape(named)}[/dim]")
