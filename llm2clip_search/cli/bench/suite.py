"""``llm2clip-search bench suite``: recall on several data sets in one run, and the mean over them."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.bench.measured import (
    CacheFolder,
    EncoderName,
    NoCache,
    SuiteLangs,
    SuiteNames,
    SuiteRoot,
    check_output_file,
    open_measured_suite,
)
from llm2clip_search.cli.bench.retrieval import Against, measure_each, print_notes, recall_table
from llm2clip_search.cli.options import Device, RuntimeName


def bench_suite(
    datasets: SuiteNames = None,
    root: SuiteRoot = Path(),
    model: EncoderName = "nano",
    langs: SuiteLangs = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the results, one JSON object per data set and language; bench compare and bench report read"
            " it.",
            show_default=False,
        ),
    ] = None,
    against: Against = None,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per data set and language, then one of the mean.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Measure recall as bench retrieval does, on several data sets at once, with their mean.

    A data set that is missing or cannot be read is left out, and said. In the mean every data set counts once, however
    many languages it has.

    [dim]llm2clip-search bench suite --root ../shared/data --markdown[/dim]
    [dim]llm2clip-search bench suite flickr8k ade20k:test rsicd:test --root ./data --out nano.json[/dim]
    """
    from llm2clip_search.benchmarks.suite import mean_recalls, mean_row, mean_title, recall_cells
    from llm2clip_search.benchmarks.suite import suite_markdown as as_markdown
    from llm2clip_search.errors import CorpusError

    if json_output and markdown:
        raise CorpusError("Results are printed in one form, but several are given.", hint="Choose --json, --markdown.")
    if out is not None:
        check_output_file(out)
    measured = open_measured_suite(
        datasets or (),
        root,
        langs=langs,
        model=model,
        runtime=runtime,
        device=device,
        cache=cache,
        no_cache=no_cache,
    )
    results = measure_each(measured, lambda found: found, captions_per_image="all", out=out, json_output=json_output)
    with console.results():
        if json_output:
            console.print_json(mean_row(results))
        elif markdown:
            console.out.print(as_markdown(results), markup=False, soft_wrap=True)
        else:
            table = recall_table(results, against=against is not None)
            table.add_row(mean_title(results), "", "", "", *recall_cells(mean_recalls(results)))
            console.out.print(table)
            print_notes(results)
