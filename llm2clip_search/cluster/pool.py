"""What a run takes of a cluster: how many encoders there are, and what tasks and actors ask for."""

from dataclasses import dataclass

from llm2clip_search.cluster.connection import Node
from llm2clip_search.errors import ClusterError


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where a run takes place and what it takes of it."""

    address: str = ""
    """As for `connected`."""
    staging: str = ""
    """Path or address that the driver and all nodes can write; empty for the default of whoever runs it."""
    encoders: int | None = None
    """Actors that encode. Default: one for each GPU, or for each node if there is none."""
    gpus_per_encoder: float = 1.0
    """GPUs of each, if there are any; a fraction lets encoders share one."""
    reader_threads: int = 1
    """Threads of each reader. Requests to other machines have threads of their own."""
    stall_s: float = 1800.0
    """Seconds without any result after which the pipeline is started again."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What each part of a pipeline takes."""

    encoders: int
    encoder_gpus: float
    encoder_cpus: float
    reader_cpus: float
    writer_cpus: float


def pool_of(alive: list[Node], config: ClusterConfig) -> Pool:
    """How many encoders there are and what tasks ask for.

    Encoders ask for a sliver of a processor, so that readers always find room beside them; the operating system shares
    the cores.

    Raises:
        ClusterError: more GPUs are asked for than there are, or no node has a processor to give.
    """
    gpus, cpus = sum(node.gpus for node in alive), sum(node.cpus for node in alive)
    if not cpus:
        raise ClusterError("The nodes of the cluster offer no processors.", hint="Start them with --num-cpus.")
    per_encoder = config.gpus_per_encoder if gpus else 0.0
    room = sum(int(node.gpus / per_encoder + 1e-6) for node in alive) if per_encoder else len(alive)
    wanted = config.encoders or room
    if per_encoder and wanted > room:
        raise ClusterError(
            f"{wanted} encoders with {per_encoder:g} GPUs each do not fit: the cluster has {gpus:g} GPUs.",
            hint="Ask for fewer with --encoders, or for a fraction with --gpus-per-encoder.",
        )
    if not wanted:
        raise ClusterError(f"No node of the cluster has {per_encoder:g} GPUs.", hint="Lower --gpus-per-encoder.")
    smallest = min(node.cpus for node in alive if node.cpus)
    return Pool(
        encoders=wanted,
        encoder_gpus=per_encoder,
        encoder_cpus=0.05,
        reader_cpus=1.0 if smallest > 1 else 0.5,
        writer_cpus=0.05,
    )
