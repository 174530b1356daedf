"""``llm2clip-search bench scale``: what an index costs as it grows."""

import json
from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console


def bench_scale(
    sizes: Annotated[
        str, typer.Option(help="Numbers of rows to measure at, ascending, separated by commas.")
    ] = "10000,100000,1000000",
    dim: Annotated[int, typer.Option(min=2, help="Dimensions of the vectors.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic rows.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scale.jsonl and the plot scale.png.", show_default=False)
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per size.")] = False,
) -> None:
    """Measure commits, filters, metadata and exact search at several sizes of an index of synthetic rows.

    The rows go through the same writer as real ones, in a temporary folder: 1 kB per row at 512 dimensions.

    [dim]llm2clip-search bench scale --sizes 100000,1000000,10000000 --out ./scale[/dim]
    """
    from llm2clip_search.benchmarks.perf.scale import CONDITIONS, benchmark_scale, write_scale
    from llm2clip_search.errors import CorpusError

    try:
        rows = [int(size.replace("_", "")) for size in sizes.split(",")]
    except ValueError as error:
        raise CorpusError(f"--sizes is {sizes!r}, which is not a list of numbers.") from error
    points = []
    for point in benchmark_scale(rows, dim=dim, seed=seed):
        points.append(point)
        if json_output:
            with console.results():
                print(json.dumps(point.to_dict()), flush=True)
    if not json_output:
        filters = [f"filter {name}" for name in CONDITIONS]
        columns = ("rows", "shards", "commit", "rows/s", "B/row", "open", "exact", *filters, "20 rows", "peak memory")
        table = console.table(*columns, title="milliseconds, but for rows/s, bytes and memory")
        for point in points:
            milliseconds = (point.open_ms, point.exact_ms, *point.filter_ms.values(), point.join_ms)
            table.add_row(
                f"{point.rows:,}",
                str(point.shards),
                f"{point.commit_ms:.0f}",
                f"{point.rows_per_second:,.0f}",
                f"{point.bytes_per_row:,.0f}",
                *(f"{value:.1f}" for value in milliseconds),
                f"{point.peak_gb:.2f} GB",
            )
        with console.results():
            console.out.print(table)
    if out is not None:
        for path in write_scale(points, out):
            console.say(f"wrote {path}")
