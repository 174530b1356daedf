"""``llm2clip-search bench sugarcrepe``: whether images prefer their caption to one that is changed a little."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench.measured import CacheFolder, EncoderName, NoCache, print_rows
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    from rich.table import Table

    from llm2clip_search.benchmarks.sugarcrepe import SugarCrepeResult


def bench_sugarcrepe(
    root: Annotated[Path, typer.Option("--root", help="Folder with SugarCrepe's add_att.json and other files.")],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of COCO's val2017 images, or of webdataset shards of them. Default: val2017 or images in"
            " --root.",
            show_default=False,
        ),
    ] = None,
    model: EncoderName = "nano",
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure SugarCrepe: how often an image scores higher with its caption than with a slightly wrong one.

    The wrong caption adds, replaces or swaps an object, an attribute or a relation. 50 % is chance.

    [dim]llm2clip-search bench sugarcrepe --root ./sugar-crepe/data --images ./coco/val2017[/dim]
    """
    from llm2clip_search.benchmarks.embedding import default_cache
    from llm2clip_search.benchmarks.sugarcrepe import measure_sugarcrepe, read_sugarcrepe
    from llm2clip_search.encoders import load_encoder

    found = read_sugarcrepe(root, images)
    if found.missing:
        console.warn(f"{', '.join(found.missing)} are left out: their files are missing.")
    if found.left_out:
        console.warn(f"{found.left_out:,} pairs are left out, because their images are missing.")
    encoder = load_encoder(model, runtime=runtime, device=device)
    with ProgressBar() as progress:
        folder = None if no_cache else cache or default_cache()
        result = measure_sugarcrepe(encoder, found, cache=folder, progress=progress)
    print_rows([result.to_dict()], lambda: _table(result), json_output=json_output)


def _table(result: "SugarCrepeResult") -> "Table":
    table = console.table("category", "pairs", "accuracy", left=("category",))
    for category, accuracy in result.accuracy.items():
        table.add_row(category, f"{result.pairs[category]:,}", f"{100 * accuracy:.1f} %")
    table.add_row(f"mean of {len(result.accuracy)}", f"{sum(result.pairs.values()):,}", f"{100 * result.mean:.1f} %")
    return table
