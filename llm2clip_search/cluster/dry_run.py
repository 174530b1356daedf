"""What a run on a cluster would take, from a sample that is embedded there."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from llm2clip_search.cluster.connection import Node
from llm2clip_search.cluster.pipeline import Usage
from llm2clip_search.cluster.work import Note
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.errors import ClusterError

BLOCKS_IN_FLIGHT = 4
"""Of each encoder: what it works on, and what waits before and behind it."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What was measured of a sample, and what follows for the whole."""

    nodes: tuple[Node, ...]
    sample: int
    """Items that were embedded."""
    items: int
    """Items of the whole; about, if it has containers."""
    failed: int
    """Items of the sample that cannot be read."""
    startup_s: float
    """Until the first results came."""
    rate: float
    """Items/s of the whole cluster, after that."""
    rate_per_encoder: float
    """Items/s of one encoder that never waits."""
    encoder_bytes: int
    """Memory of one encoder's process."""
    in_flight_bytes: int
    """Blocks in flight per encoder, in Ray's object store."""
    seconds: float
    """Expected of the whole."""
    node_hours: float
    price: float | None
    """Of the whole; None if the price of a node is not known."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def measure(
    results: Iterator[Decoded | Note],
    usage: Usage,
    *,
    wanted: int,
    total: Callable[[float], int],
    node_price: float | None = None,
) -> Estimate:
    """Take a sample of what `embed_units` yields, and see how fast it comes.

    Args:
        results: of the sample, or of more.
        usage: what `embed_units` fills in.
        wanted: items after which it is enough.
        total: from the mean bytes of an item to the number of items of the whole.
        node_price: of a node for an hour.

    Raises:
        ClusterError: nothing of the sample could be embedded.
    """
    sizes, failed = list[int](), 0
    for result in results:
        if isinstance(result, Decoded) and not result.item.is_container:
            failed += result.error is not None
            sizes.append(result.size)
            if len(sizes) >= wanted:
                break
    close = getattr(results, "close", None)
    if close is not None:
        close()
    embedded, seconds = sum(usage.embedded.values()), sum(usage.seconds.values())
    if not embedded:
        raise ClusterError(f"Nothing was embedded of a sample of {len(sizes):,} items; {failed:,} cannot be read.")
    startup = usage.first - usage.started
    after = embedded - usage.first_rows
    rate = after / (usage.last - usage.first) if after and usage.last > usage.first else embedded / usage.elapsed
    items = total(sum(sizes) / max(1, len(sizes)))
    expected = startup + items / rate
    hours = len(usage.nodes) * expected / 3600
    return Estimate(
        nodes=tuple(usage.nodes.values()),
        sample=embedded,
        items=items,
        failed=failed,
        startup_s=startup,
        rate=rate,
        rate_per_encoder=embedded / max(seconds, 1e-9),
        encoder_bytes=usage.memory,
        in_flight_bytes=BLOCKS_IN_FLIGHT * usage.block_bytes,
        seconds=expected,
        node_hours=hours,
        price=None if node_price is None else hours * node_price,
    )
