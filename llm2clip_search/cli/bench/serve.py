"""``llm2clip-search bench serve``: what a served index costs over its socket."""

from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.sizes import numbers


def bench_serve(
    sizes: Annotated[str, typer.Option(help="Numbers of rows, separated by commas.")] = "10000",
    clients: Annotated[
        int, typer.Option(min=0, help="Then let so many clients ask at once while the index is built again.")
    ] = 0,
    seconds: Annotated[float, typer.Option(min=5, help="How long they ask.")] = 120.0,
    model: Annotated[str, typer.Option(help="Model to measure with, as for query.")] = "nano",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per size.")] = False,
) -> None:
    """Serve synthetic indices with a real model, and measure searches, pages and thumbnails as a client sees them.

    [dim]llm2clip-search bench serve --sizes 10000,1000000[/dim]
    [dim]llm2clip-search bench serve --clients 50[/dim]
    [dim]llm2clip-search bench serve --clients 8 --seconds 3600[/dim]
    """
    from llm2clip_search.benchmarks.perf.serving import measure_serving
    from llm2clip_search.benchmarks.perf.serving_load import measure_load
    from llm2clip_search.benchmarks.perf.serving_pictures import measure_pictures
    from llm2clip_search.encoders import load_encoder

    encoder, rows = load_encoder(model), numbers(sizes, "--sizes")
    heads = ("rows", "listening s", "ready s", "search ms", "encode ms", "other ms", "with filter ms", "next page ms")
    table = console.table(*heads)
    for cost in measure_serving(encoder, rows):
        if json_output:
            console.print_json(cost.to_dict())
        times = (cost.search_ms, cost.encode_ms, cost.overhead_ms, cost.filtered_ms, cost.next_page_ms)
        starts = (f"{cost.listening_s:.2f}", f"{cost.ready_s:.1f}")
        table.add_row(f"{cost.rows:,}", *starts, *(f"{each:.1f}" for each in times))
    pictures = measure_pictures(encoder)
    load = measure_load(encoder, rows=rows[0], clients=clients, seconds=seconds) if clients else None
    if json_output:
        console.print_json(pictures.to_dict())
        if load is not None:
            console.print_json(load.to_dict())
        return
    with console.results():
        console.out.print(table)
        console.out.print(
            f"thumbnails of 12-megapixel JPEGs: {pictures.fresh:.1f}/s on {pictures.cores} cores, cached"
            f" {pictures.cached:,.0f}/s; page {pictures.page_bytes:,} bytes"
        )
        if load is not None:
            statuses = ", ".join(f"{count:,} with {status}" for status, count in load.answers.items())
            held = "; ".join(
                f"{size:.0f} MB, {load.descriptors[share]:.0f} open files and {load.threads[share]:.0f} threads"
                f" after {share} %"
                for share, size in load.memory_mb.items()
            )
            console.out.print(
                f"{load.clients} clients for {load.seconds:.0f} s, index rebuilt {load.commits} times:"
                f" answers {statuses}; {load.search_ms:.0f} ms, 99th percentile {load.slow_ms:.0f} ms; {held}"
            )
