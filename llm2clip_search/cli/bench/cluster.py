"""``llm2clip-search bench cluster``: what indexing on a cluster costs beside indexing in one process."""

from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import ModelName
from llm2clip_search.cli.progress import ProgressBar


def bench_cluster(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What to index, as for index.", show_default=False)],
    nodes: Annotated[int, typer.Option(min=1, help="Ray nodes, which share the cores of this machine.")] = 2,
    runs: Annotated[int, typer.Option(min=1, help="Pairs of runs.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per call of the vision tower.")] = 32,
    model: ModelName = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object per pair of runs.")] = False,
) -> None:
    """Index a source in this process and on Ray nodes of this machine, in turn, and compare time and indices.

    [dim]llm2clip-search bench cluster ./images --nodes 2 --runs 3[/dim]
    """
    from llm2clip_search.benchmarks.perf.cluster import benchmark_cluster
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.encoders.registry import DEFAULT_MODEL
    from llm2clip_search.indexers import IndexConfig

    encoder = load_encoder(model or DEFAULT_MODEL)
    config = IndexConfig(batch_size=batch_size)
    table = console.table("images", "nodes", "local s", "cluster s", "overhead", "driver s", "equal rows", "equal bits")
    with ProgressBar() as progress, console.results():
        for cost in benchmark_cluster(source, encoder, nodes=nodes, runs=runs, config=config, progress=progress):
            if json_output:
                console.print_json(cost.to_dict())
            table.add_row(
                f"{cost.images:,}",
                f"{cost.nodes:,}",
                f"{cost.local_s:.1f}",
                f"{cost.cluster_s:.1f}",
                f"{100 * cost.overhead:.1f} %",
                f"{cost.driver_s:.1f}",
                *("yes" if each else "no" for each in (cost.equal_rows, cost.equal_bits)),
            )
    if not json_output:
        with console.results():
            console.out.print(table)
