"""``llm2clip-search bench no-answer``: whether scores tell that a caption's image is not there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench.measured import (
    CacheFolder,
    EncoderName,
    NoCache,
    SuiteLangs,
    SuiteNames,
    SuiteRoot,
    open_measured_suite,
    print_rows,
)
from llm2clip_search.cli.options import Device, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from llm2clip_search.benchmarks.no_answer import NoAnswerResult


def bench_no_answer(
    datasets: SuiteNames = None,
    root: SuiteRoot = Path(),
    model: EncoderName = "nano",
    langs: SuiteLangs = "",
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per gallery.")] = False,
) -> None:
    """Measure whether scores tell that a caption's image is not in the gallery, and hard negatives.

    Each caption is asked with its image in the gallery and with its image removed. The table shows, for several
    statistics of the best hit, the AUC with which they separate right best hits from those without the image: 50 % is
    chance. "lead" is the lead over the 20 best hits; "probability" is there for a calibrated model. Hard negatives are
    the ten images whose captions share most words with those of the right one.

    [dim]llm2clip-search bench no-answer --root ../shared/data[/dim]
    """
    from llm2clip_search.benchmarks.no_answer import embed_set, joined_gallery, measure_no_answer

    opened = open_measured_suite(
        datasets or (),
        root,
        langs=langs,
        model=model,
        runtime=runtime,
        device=device,
        cache=cache,
        no_cache=no_cache,
    )
    encoder = opened[0].encoder
    with ProgressBar() as progress:
        sets = [
            each for found in opened for each in embed_set(encoder, found.dataset, cache=found.cache, progress=progress)
        ]
    galleries = [*sets, *([joined_gallery(sets)] if len(opened) > 1 else [])]
    results = [measure_no_answer(encoder, gallery) for gallery in galleries]
    print_rows((result.to_dict() for result in results), lambda: _table(results), json_output=json_output)


def _table(results: "Sequence[NoAnswerResult]") -> "Table":
    named = list(results[0].auc)
    shown = [f"AUC of {name.replace('_', ' ')}" for name in named]
    left = ("data set", "language")
    table = console.table(
        *left, "captions", "images", "R@1", *shown, "calibration error", "hard negatives R@1", left=left
    )
    for result in results:
        table.add_row(
            result.dataset,
            result.language,
            f"{result.captions:,}",
            f"{result.images:,}",
            _percent(result.image_retrieval_recall_at_1),
            *(_percent(result.auc[name]) for name in named),
            _percent(result.calibration_error),
            _percent(result.hard_negative_recall_at_1),
        )
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
