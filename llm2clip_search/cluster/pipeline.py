"""Units of work to results: what a driver gives to a cluster and takes from it."""

import math
import pickle
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.cluster.arrivals import Arrivals
from llm2clip_search.cluster.connection import Node, connected, nodes
from llm2clip_search.cluster.pool import ClusterConfig, pool_of
from llm2clip_search.cluster.probe import check_nodes
from llm2clip_search.cluster.staging import Staging
from llm2clip_search.cluster.tasks import Run, table_of, unit_name
from llm2clip_search.cluster.work import Block, EncoderSource, LostWorkError, Note, Outcome, Work
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.errors import ClusterError, first_line

ROUNDS = 3
"""Pipelines in a row that may fail without completing a unit."""


@dataclass(kw_only=True)
class Usage:
    """What each node has encoded, for a summary."""

    nodes: dict[str, Node] = field(default_factory=dict)
    """By id; also those that were lost."""
    embedded: dict[str, int] = field(default_factory=dict)
    """Rows by id of a node."""
    seconds: dict[str, float] = field(default_factory=dict)
    """That its encoders worked, summed."""
    started: float = field(default_factory=time.monotonic)
    first: float = math.inf
    last: float = -math.inf
    """When the first block and the last one arrived, as `time.monotonic`."""
    first_rows: int = 0
    """Rows of the first block, which arrived with it."""
    memory: int = 0
    """Most resident bytes of an encoder's process."""
    block_bytes: int = 0
    """Most bytes of a block."""

    @property
    def elapsed(self) -> float:
        """Seconds from the first connection to the last block."""
        return max(0.0, self.last - self.started)

    def add(self, outcome: Outcome) -> None:
        """Count a block."""
        self.last = time.monotonic()
        if self.first > self.last:
            self.first, self.first_rows = self.last, outcome.embedded
        self.memory, self.block_bytes = max(self.memory, outcome.memory), max(self.block_bytes, outcome.bytes)
        self.embedded[outcome.node] = self.embedded.get(outcome.node, 0) + outcome.embedded
        self.seconds[outcome.node] = self.seconds.get(outcome.node, 0.0) + outcome.seconds


def embed_units(
    work: Work,
    units: Iterable[Any],
    source: EncoderSource,
    config: ClusterConfig,
    *,
    owner: str,
    batch_size: int,
    together: int,
    known: np.ndarray,
    usage: Usage | None = None,
) -> Iterator[Decoded | Note]:
    """What a cluster makes of some units, in their order.

    Args:
        owner: whose run this is, see `Staging`; two at once would remove each other's files.
        batch_size: rows per call of a tower.
        together: rows that an encoder gets at once, of which it may make batches itself.
        known: first halves of content hashes that are not to be embedded, uint64 ascending.
        usage: is filled in.

    Yields:
        As `embed_ahead`, but that two items of one new content may both have a vector; and notes.

    Raises:
        ClusterError: there is no such cluster, its nodes do not fit, or it has lost the same work again and again.
        Llm2ClipError: the model itself fails.
    """
    usage = usage or Usage()
    staging = Staging(place=config.staging, owner=owner)
    with connected(config.address):
        try:
            staging.open()
            check_nodes(work, source, staging, nodes())
            count, divisible = 0, False
            for count, unit in enumerate(units, 1):
                divisible = divisible or work.is_divisible(unit)
                staging.put(unit_name(count - 1), pickle.dumps(unit, pickle.HIGHEST_PROTOCOL))
            run = Run(
                work=work,
                encoder=source,
                staging=staging,
                batch_size=batch_size,
                together=together,
                reader_threads=config.reader_threads,
                folder=str(Path.cwd()),
                divisible=divisible,
                known=known,
            )
            yield from _delivered(run, count, config, usage)
        finally:
            staging.remove()


def _delivered(run: Run, count: int, config: ClusterConfig, usage: Usage) -> Iterator[Decoded | Note]:
    """The results of all units in order; a pipeline that fails is followed by another one with what it has left."""
    arrivals, fruitless = Arrivals(count), 0
    while arrivals.missing:
        before, failure = len(arrivals.missing), "it ended without all of its results"
        try:
            with closing(_stored(run, sorted(arrivals.missing), config, usage)) as outcomes:
                for outcome in outcomes:
                    usage.add(outcome)
                    arrivals.add(outcome)
                    for name, skipped in arrivals.in_order():
                        yield from _results(run, name, skipped)
        except LostWorkError as error:
            failure = str(error)
        fruitless = 0 if len(arrivals.missing) < before else fruitless + 1
        if arrivals.missing and fruitless == ROUNDS:
            raise ClusterError(f"The cluster has lost the same work {ROUNDS} times: {failure}.", hint=_HINT)
        arrivals.forget_incomplete()


_HINT = "'ray status' and the logs in /tmp/ray/session_latest/logs of its nodes say more; what was committed is kept."


def _results(run: Run, name: str, skipped: int) -> Iterator[Decoded | Note]:
    """The results of a block, but for the first ``skipped`` of them, which an earlier attempt has delivered."""
    block = Block.of(table_of(pa.py_buffer(run.staging.get(name))))
    for number, result in enumerate(block.results):
        if number >= skipped or isinstance(result, Note):
            yield result
    run.staging.discard(name)


def _stored(run: Run, units: list[int], config: ClusterConfig, usage: Usage) -> Generator[Outcome, None, None]:
    """What a pipeline stores, as it comes.

    Ray Data waits for ever for a node that does not come back, and cannot be told to stop. So it runs in an actor, with
    which all that it has started ends.

    Raises:
        LostWorkError: the pipeline has failed, or nothing has come for too long.
        Llm2ClipError: as `embed_units`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from llm2clip_search.cluster.conductor import Conductor

    alive = nodes()
    usage.nodes |= {node.id: node for node in alive}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(Conductor)
    conductor = actor.options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        pool = pool_of(alive, config)
        if not run.divisible:  # further encoders would load the model for nothing
            pool = replace(pool, encoders=min(pool.encoders, len(units)))
        stream = conductor.outcomes.options(num_returns="streaming").remote([ray.put(run)], units, pool, alive)
        while True:
            ready, _ = ray.wait([stream], timeout=config.stall_s)
            if not ready:
                raise LostWorkError(f"no result has come for {config.stall_s:,.0f} s")
            try:
                arrived = ray.get(next(stream))
            except StopIteration:
                return
            if isinstance(arrived, Exception):
                raise arrived
            yield from arrived
    except ray.exceptions.RayError as error:
        raise LostWorkError(first_line(error)) from error
    finally:
        ray.kill(conductor)
