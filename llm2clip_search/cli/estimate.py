"""What ``index --dry-run`` prints."""

from pathlib import Path
from typing import TYPE_CHECKING

from llm2clip_search.base.visible import visible
from llm2clip_search.cli import console

if TYPE_CHECKING:
    from llm2clip_search.cluster.pool import ClusterConfig
    from llm2clip_search.corpora import Corpus
    from llm2clip_search.encoders import Encoder
    from llm2clip_search.indexers import IndexConfig


def print_estimate(
    corpus: "Corpus",
    encoder: "Encoder",
    index: Path,
    config: "IndexConfig",
    cluster: "ClusterConfig",
    node_price: float | None,
    *,
    json_output: bool,
) -> None:
    """Measure a sample on a cluster and print what the whole would take."""
    from llm2clip_search.indexers.on_ray_dry_run import estimate_on_ray

    found = estimate_on_ray(corpus, encoder=encoder, index=index, config=config, cluster=cluster, node_price=node_price)
    with console.results():
        if json_output:
            console.print_json({"root": corpus.uri, **found.to_dict()})
            return
        table = console.table("node", "CPUs", "GPUs", "memory GB", "object store GB", left=["node"])
        for node in found.nodes:
            cells = (f"{node.cpus:g}", f"{node.gpus:g}", f"{node.memory / 1e9:.1f}", f"{node.object_store / 1e9:.1f}")
            table.add_row(visible(node.name), *cells)
        console.out.print(table)
        unit = f"{corpus.modality}s"
        failed = f"; {found.failed:,} cannot be read" if found.failed else ""
        console.out.print(f"sample: {found.sample:,} {unit}{failed}, first results after {found.startup_s:.0f} s")
        console.out.print(
            f"speed: {found.rate:,.1f} {unit}/s, {found.rate_per_encoder:,.1f} {unit}/s per encoder that never waits"
        )
        console.out.print(
            f"memory: {found.encoder_bytes / 1e9:.1f} GB per encoder,"
            f" {found.in_flight_bytes / 1e9:.2f} GB in flight for each"
        )
        price = f", price {found.price:,.2f}" if found.price is not None else ""
        console.out.print(
            f"whole: about {found.items:,} {unit} in {found.seconds / 3600:,.2f} hours,"
            f" {found.node_hours:,.2f} node hours{price}"
        )
