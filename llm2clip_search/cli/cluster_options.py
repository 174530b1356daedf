"""Options of commands that can embed on a cluster."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llm2clip_search.cluster.pool import ClusterConfig

_PANEL = "On a cluster"
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        help="Embed on a Ray cluster: ray for that of this machine, or ray:HEAD:6379. Default: in this process.",
        show_default=False,
        metavar="ray[:ADDRESS]",
        rich_help_panel=_PANEL,
    ),
]
Staging = Annotated[
    str | None,
    typer.Option(
        "--staging",
        help="Folder that all nodes share, or address such as s3://bucket/staging, for what nodes hand over.",
        show_default=False,
        metavar="PLACE",
        rich_help_panel=_PANEL,
    ),
]
Encoders = Annotated[
    int | None,
    typer.Option(
        "--encoders",
        min=1,
        help="Encoders of the cluster. Default: one per GPU, or one per node if there is none.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
GpusPerEncoder = Annotated[
    float,
    typer.Option(
        "--gpus-per-encoder",
        min=0.01,
        help="GPUs of each encoder; with 0.5, two share one.",
        rich_help_panel=_PANEL,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Embed a sample on the cluster, commit nothing, and print nodes, speed, memory and time.",
        rich_help_panel=_PANEL,
    ),
]
NodePrice = Annotated[
    float | None,
    typer.Option(
        "--node-price",
        min=0.0,
        help="Price of a node for an hour, for the cost that --dry-run prints.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


def cluster_config(
    on: str | None, staging: str | None, encoders: int | None, gpus_per_encoder: float
) -> "ClusterConfig | None":
    """What the options say; None for work in this process.

    Raises:
        typer.BadParameter: another engine, or options of a cluster without one.
    """
    if on is None:
        if staging is not None or encoders is not None:
            raise typer.BadParameter("--staging and --encoders need --on ray.")
        return None
    engine, _, address = on.partition(":")
    if engine != "ray":
        raise typer.BadParameter(f"{on!r} is not ray or ray:HOST:PORT.", param_hint="--on")
    from llm2clip_search.cluster.pool import ClusterConfig

    return ClusterConfig(address=address, staging=staging or "", encoders=encoders, gpus_per_encoder=gpus_per_encoder)
