"""``llm2clip-search bench simulate-indexing`` and ``simulate-serving``: clusters computed from measured rates."""

import math
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.sizes import gigabytes, numbers


def bench_simulate_indexing(
    node_rate: Annotated[float, typer.Option(help="Images per second of one node, as measured.", show_default=False)],
    driver_rate: Annotated[
        float, typer.Option(help="Images per second that the driver commits, as measured.", show_default=False)
    ],
    images: Annotated[int, typer.Option(min=1, help="Images to index.")] = 1_000_000_000,
    nodes: Annotated[str, typer.Option(help="Numbers of nodes, separated by commas.")] = "8,32,128",
    node_hours: Annotated[
        float, typer.Option(help="Mean hours between two failures of one node.", show_default="never")
    ] = math.inf,
    driver_hours: Annotated[
        float, typer.Option(help="Mean hours between two failures of the driver.", show_default="never")
    ] = math.inf,
    replace_seconds: Annotated[float, typer.Option(min=0, help="Until a failed machine is replaced.")] = 300.0,
    load_seconds: Annotated[float, typer.Option(min=0, help="Until a new node embeds its first image.")] = 60.0,
    plan_rate: Annotated[
        float, typer.Option(help="Images per second that the driver lists, as measured.", show_default="at once")
    ] = math.inf,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the failures.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per number of nodes.")] = False,
) -> None:
    """Compute how long a cluster indexes, with failures, from rates that were measured.

    [dim]llm2clip-search bench simulate-indexing --node-rate 700 --driver-rate 20000 --node-hours 500[/dim]
    """
    from llm2clip_search.benchmarks.perf.simulated_indexing import IndexingCase, simulate_indexing

    table = console.table("nodes", "hours", "node hours", "efficiency", "embedded twice", "failures", "driver busy")
    for count in numbers(nodes, "--nodes"):
        case = IndexingCase(
            images=images,
            nodes=count,
            node_rate=node_rate,
            driver_rate=driver_rate,
            node_hours=node_hours,
            driver_hours=driver_hours,
            replace_s=replace_seconds,
            load_s=load_seconds,
            plan_rate=plan_rate,
            seed=seed,
        )
        outcome = simulate_indexing(case)
        if json_output:
            console.print_json({"nodes": count, **outcome.to_dict()})
        table.add_row(
            f"{count:,}",
            f"{outcome.hours:,.1f}",
            f"{outcome.node_hours:,.0f}",
            f"{outcome.efficiency:.1%}",
            f"{outcome.repeated / images:.2%}",
            f"{outcome.node_failures} nodes, {outcome.driver_failures} driver",
            f"{outcome.driver_load:.0%}",
        )
    if not json_output:
        with console.results():
            console.out.print(table)


def bench_simulate_serving(
    measured: Annotated[
        str,
        typer.Option(
            help="Median milliseconds of a search of one shard by its rows, as measured: ROWS=MS, separated by commas.",
            show_default=False,
        ),
    ],
    spread: Annotated[
        float, typer.Option(help="Ratio of the 95th percentile to the median, as measured.", show_default=False)
    ],
    rows: Annotated[int, typer.Option(min=1, help="Rows of the collection.")] = 1_000_000_000,
    dim: Annotated[int, typer.Option(min=1, help="Dimensions of the vectors.")] = 512,
    shards: Annotated[str, typer.Option(help="Numbers of shards, separated by commas.")] = "16,64,256",
    replicas: Annotated[int, typer.Option(min=1, help="Copies of each shard, on machines of their own.")] = 2,
    cores: Annotated[int, typer.Option(min=1, help="Cores of a machine.")] = 8,
    rate: Annotated[float, typer.Option(help="Queries per second.")] = 100.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the queries.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per number of shards.")] = False,
) -> None:
    """Compute latencies and memory of an engine with many shards, from times that were measured.

    One search of a shard in a thousand is delayed tenfold by something else on its machine.

    [dim]llm2clip-search bench simulate-serving --measured 100000=0.6,1000000=0.9 --spread 1.5[/dim]
    """
    from llm2clip_search.benchmarks.perf.simulated_serving import BITS, ServingCase, bytes_per_row, simulate_serving

    held = {kind: bytes_per_row(dim, kind) for kind in BITS}
    heads = ("shards", "machines", "shard ms", "load", "p50 ms", "p95 ms", "p99 ms")
    table = console.table(*heads, *(f"{kind} each" for kind in BITS))
    for count in numbers(shards, "--shards"):
        case = ServingCase(
            rows=rows,
            shards=count,
            replicas=replicas,
            queries_per_second=rate,
            measured=_points(measured),
            spread=spread,
            cores=cores,
            seed=seed,
        )
        outcome = simulate_serving(case)
        sizes = {kind: round(each * rows / count) for kind, each in held.items()}
        if json_output:
            console.print_json({"shards": count, **outcome.to_dict(), "memory_bytes": sizes})
        times = (outcome.shard_ms, outcome.p50_ms, outcome.p95_ms, outcome.p99_ms)
        first, *others = (f"{each:.1f}" for each in times)
        table.add_row(
            str(count), str(outcome.machines), first, f"{outcome.load:.0%}", *others, *map(gigabytes, sizes.values())
        )
    if not json_output:
        with console.results():
            console.out.print(table)


def _points(text: str) -> tuple[tuple[int, float], ...]:
    try:
        pairs = [each.split("=") for each in text.split(",")]
        return tuple((int(size), float(ms)) for size, ms in pairs)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not ROWS=MS, as in 1000000=0.9.", param_hint="--measured") from error
