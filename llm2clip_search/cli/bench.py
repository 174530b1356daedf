"""``llm2clip-search bench``: how well an encoder retrieves, how fast the indexer is, what training costs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench_captions import bench_captions
from llm2clip_search.cli.bench_training import training
from llm2clip_search.cli.options import Device, RuntimeName

bench = typer.Typer(no_args_is_help=True, help="Measure recall and speed.")
bench.command("captions")(bench_captions)
bench.command("training")(training)


@bench.command("retrieval")
def retrieval(
    dataset: Annotated[str, typer.Argument(help="flickr8k.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    model: Annotated[str, typer.Option(help="As for query.")] = "nano",
    split: Annotated[str, typer.Option(help="dev or test.")] = "dev",
    langs: Annotated[str, typer.Option(help="Languages, with commas.")] = "en",
    joined: Annotated[
        int, typer.Option(min=0, help="Ask one long caption an image, made of this many of its own; 0: each by itself.")
    ] = 0,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a language.")] = False,
) -> None:
    """Recall@1, 5, 10 both ways, by CLIP_benchmark's definition.

    [dim]llm2clip-search bench retrieval flickr8k --root ./flickr8k --langs en,de[/dim]
    """
    from rich.table import Table

    from llm2clip_search.benchmarks.retrieval import flickr8k_retrieval
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.errors import CorpusError

    if dataset != "flickr8k":
        raise CorpusError(f"There is no data set {dataset!r}; there is: flickr8k.")
    encoder = load_encoder(model, runtime=runtime, device=device)
    results = flickr8k_retrieval(encoder, root, split=split, langs=tuple(langs.split(",")), joined=joined)
    if json_output:
        for result in results:
            print(json.dumps(result.to_dict()), flush=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("language", "captions", "image_retrieval R@1 / 5 / 10", "text_retrieval R@1 / 5 / 10"):
        table.add_column(column, justify="right" if column == "captions" else "left")
    for result in results:
        cells = [
            " / ".join(f"{100 * result.metrics[f'{way}_recall@{k}']:.1f}" for k in (1, 5, 10))
            for way in ("image_retrieval", "text_retrieval")
        ]
        table.add_row(result.language, f"{result.captions:,}", *cells)
    console.out.print(table)


@bench.command("speed")
def speed(
    folder: Annotated[Path, typer.Argument(help="Folder of images to index, into a scratch folder.")],
    model: Annotated[str, typer.Option(help="As for query.")] = "nano",
    rounds: Annotated[int, typer.Option(min=1, help="Times each is measured; medians are shown.")] = 3,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Images a second of the indexer against the vision tower alone on preloaded pixels.

    [dim]llm2clip-search bench speed ./images[/dim]
    """
    from llm2clip_search.benchmarks.speed import measure_speed
    from llm2clip_search.encoders import load_encoder

    result = measure_speed(load_encoder(model, runtime=runtime, device=device), folder, rounds=rounds)
    if json_output:
        with console.results():
            print(json.dumps(result.to_dict()))
        return
    console.out.print(f"vision tower alone  {result.tower:8.1f} images/s")
    console.out.print(
        f"whole index run     {result.index:8.1f} images/s, {result.index / result.tower:.2f} of the tower"
    )
    console.out.print(f"second index run    {result.again:8.3f} s, {result.again / result.first:.3f} of the first")
    console.out.print(f"one caption         {1000 * result.caption:8.1f} ms, in an open index")
