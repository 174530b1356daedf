"""``llm2clip-search bench scale``: what an index costs as it grows."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.sizes import gigabytes, numbers

if TYPE_CHECKING:
    from rich.table import Table

    from llm2clip_search.benchmarks.perf.scale import ScalePoint


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
    """Measure commits, filters, metadata and searches at several sizes of an index of synthetic rows.

    The rows go through the same writer as real ones, in a temporary folder: 1 kB per row at 512 dimensions.

    [dim]llm2clip-search bench scale --sizes 100000,1000000,10000000 --out ./scale[/dim]
    """
    from llm2clip_search.benchmarks.perf.scale import benchmark_scale, write_scale

    points = []
    for point in benchmark_scale(numbers(sizes, "--sizes"), dim=dim, seed=seed):
        points.append(point)
        if json_output:
            with console.results():
                print(json.dumps(point.to_dict()), flush=True)
    if not json_output:
        with console.results():
            for table in _tables(points):
                console.out.print(table)
    if out is not None:
        for path in write_scale(points, out):
            console.say(f"wrote {path}")


def _tables(points: "Sequence[ScalePoint]") -> "Iterator[Table]":
    store = console.table(
        "rows", "shards", "commit ms", "rows/s", "B/row", "open ms", "20 rows ms", "again", "peak memory"
    )
    for point in points:
        store.add_row(
            f"{point.rows:,}",
            str(point.shards),
            f"{point.commit_ms:.0f}",
            f"{point.rows_per_second:,.0f}",
            f"{point.bytes_per_row:,.0f}",
            f"{point.open_ms:.1f}",
            f"{point.join_ms:.1f}",
            f"{point.join_again_ms:.1f}",
            f"{point.peak_gb:.2f} GB",
        )
    yield store
    filters = console.table("rows", *points[0].filter_ms, title="a filter to ids in ms, and DuckDB's scan alone")
    for point in points:
        cells = (f"{value:.1f} / {point.scan_ms[name]:.1f}" for name, value in point.filter_ms.items())
        filters.add_row(f"{point.rows:,}", *cells)
    yield filters
    search = console.table(
        *("rows", "exact ms", "FAISS flat", "build s", "size", "search ms", "recall@10", "index alone", "overhead"),
        title="a search",
    )
    for point in points:
        cost = point.search
        search.add_row(
            f"{point.rows:,}",
            f"{cost.exact_ms:.1f}",
            _or_dash(cost.flat_ms),
            f"{cost.build_seconds:.1f}",
            gigabytes(cost.ann_bytes),
            f"{cost.engine_ms:.2f}",
            f"{cost.recall:.3f}",
            _or_dash(cost.direct_ms),
            f"{cost.overhead_ms:.1f}",
        )
    yield search
    filtered = console.table(
        "rows", "share", "exact ms", "search ms", "recall@10", "plan", left=("plan",), title="a filtered search"
    )
    for point in points:
        for cost_of_share in point.search.filtered:
            filtered.add_row(
                f"{point.rows:,}",
                f"{cost_of_share.share:.2%}",
                f"{cost_of_share.exact_ms:.2f}",
                f"{cost_of_share.engine_ms:.2f}",
                f"{cost_of_share.recall:.3f}",
                cost_of_share.strategy,
            )
    yield filtered


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
