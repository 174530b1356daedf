"""``llm2clip-search bench ann``: recall and speed of approximate search."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.approximate import captions_of
from llm2clip_search.cli.options import IndexFolder

if TYPE_CHECKING:
    from llm2clip_search.benchmarks.perf.ann import AnnPoint, AnnResult


def bench_ann(
    index: IndexFolder = None,
    synthetic: Annotated[
        int | None,
        typer.Option(min=1, help="Measure this many random vectors instead of an index.", show_default=False),
    ] = None,
    dim: Annotated[int, typer.Option(min=2, help="Dimensions of the random vectors.")] = 512,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Kinds of index to build and measure, separated by commas: flat, hnsw, ivf, ivfpq, ivfrabitq, cagra;"
            " or other libraries that are installed: faiss, hnswlib, usearch, voyager. Default: the existing index, or"
            " flat, hnsw, ivf, ivfrabitq with --synthetic.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--limit", min=1, help="Number of neighbours to search for.")] = 10,
    queries: Annotated[int, typer.Option(min=1, help="Number of queries.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the queries and the random vectors.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for ann.jsonl and the plot ann.png.", show_default=False)
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per point.")] = False,
) -> None:
    """Measure approximate search: recall compared with exact search, queries per second, latency, memory, build time.

    Each index is searched at the efforts that were worth measuring when it was built, and once as the engine does.
    Queries are captions that the index's model brings along, or midpoints of stored vectors if it has none.
    A star marks points on the Pareto front of recall and queries per second. The index is only read.

    [dim]llm2clip-search bench ann --kinds flat,hnsw,ivf --out ./ann[/dim]
    [dim]llm2clip-search bench ann --synthetic 200000 --dim 512[/dim]
    """
    from llm2clip_search.benchmarks.perf.ann import KINDS, benchmark_index, benchmark_synthetic
    from llm2clip_search.errors import CorpusError
    from llm2clip_search.store import Snapshot, find_index

    chosen = [kind.strip() for kind in kinds.split(",")] if kinds else []
    if synthetic is not None:
        if index is not None:
            raise CorpusError(f"--synthetic {synthetic} and --index {index} cannot be combined.")
        result = benchmark_synthetic(synthetic, dim=dim, kinds=chosen or KINDS, k=k, queries=queries, seed=seed)
    else:
        snapshot = Snapshot(index or find_index())
        captions = captions_of(snapshot.manifest.model)(2 * queries)
        result = benchmark_index(snapshot, kinds=chosen, captions=captions, k=k, queries=queries, seed=seed)
    lines = [json.dumps(line) for line in result.to_dicts()]
    with console.results():
        if json_output:
            print("\n".join(lines))
        else:
            _print(result)
    if out is not None:
        from llm2clip_search.benchmarks.perf.ann_plot import write_ann

        for path in write_ann(result, out):
            console.say(f"wrote {path}")


def _print(result: "AnnResult") -> None:
    about = f"{result.rows:,} vectors of {result.dim} dimensions, {result.queries:,} queries ({result.vectors})"
    measured = (f"recall@{result.k}", "queries/s", "p50 ms", "p95 ms", "p99 ms", "memory", "build time")
    table = console.table("index", "setting", *measured, left=("index", "setting"))
    for cells in _rows(result):
        table.add_row(*cells)
    console.out.print(about)
    console.out.print(table)


def _rows(result: "AnnResult") -> Iterator[list[str]]:
    """Rows of the table; values shared by all points of an index are only in its first row."""
    for (kind, factory), points in groupby(result.points, key=lambda point: (point.kind, point.factory)):
        for number, point in enumerate(points):
            first = number == 0
            yield [
                (factory or kind) if first else "",
                f"{'*' if point.on_front else ' '} {point.setting}",
                f"{point.recall:.4f}",
                f"{point.queries_per_second:,.0f}",
                *(f"{value:.2f}" for value in (point.p50_ms, point.p95_ms, point.p99_ms)),
                f"{point.memory_bytes / 1e6:,.1f} MB" if first else "",
                _build(point) if first else "",
            ]


def _build(point: "AnnPoint") -> str:
    return "-" if point.build_seconds is None else f"{point.build_seconds:,.1f} s"
