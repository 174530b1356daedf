"""``llm2clip-search models calibrate``: fit what a model's scores mean, and store it in its folder."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench.measured import (
    CacheFolder,
    NoCache,
    SuiteLangs,
    SuiteNames,
    SuiteRoot,
    open_measured_suite,
)
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar


def calibrate_model(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name of the model: dir:PATH, or nano.", show_default=False)
    ],
    datasets: SuiteNames = None,
    root: SuiteRoot = Path(),
    langs: SuiteLangs = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the galleries.")] = 0,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
) -> None:
    """Fit the probability that a hit is what the caption describes, and store it in the model folder.

    Use splits that the model was not trained on. Each caption is asked with its image in the gallery and without it,
    in galleries of many sizes. Results of queries then show a probability next to the cosine. Embeddings and indices
    stay as they are. bench no-answer measures the result.

    [dim]llm2clip-search models calibrate dir:./mine flickr8k coco ade20k --root ../shared/data[/dim]
    """
    from llm2clip_search.benchmarks.no_answer import calibrate, embed_set
    from llm2clip_search.encoders.config import write_calibration
    from llm2clip_search.encoders.registry import own_folder

    folder = own_folder(name)
    opened = open_measured_suite(
        datasets or (),
        root,
        langs=langs,
        model=name,
        runtime=runtime,
        device=device,
        cache=cache,
        no_cache=no_cache,
    )
    with ProgressBar() as progress:
        sets = [
            each
            for found in opened
            for each in embed_set(found.encoder, found.dataset, cache=found.cache, progress=progress)
        ]
    fitted = calibrate(sets, seed=seed)
    write_calibration(folder, fitted)
    console.out.print(
        f"{folder}: probability = logistic({fitted.lead:.3f} x lead x sqrt(2 ln images) + {fitted.cosine:.3f} x cosine"
        f" {fitted.offset:+.3f}), fitted on {', '.join(fitted.fitted_on)}",
        markup=False,
    )
