"""One Ray Data pipeline: units are read and decoded by tasks, encoded by a pool of actors, and stored by tasks."""

import logging
import math
import pickle
import queue
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.cluster.arrivals import Arrivals
from llm2clip_search.cluster.connection import Node, connected, nodes
from llm2clip_search.cluster.probe import check_nodes
from llm2clip_search.cluster.staging import Staging
from llm2clip_search.cluster.tasks import BlockEncoder, Run, read_unit, store_blocks, table_of, unit_name
from llm2clip_search.cluster.work import BLOCK_BYTES, Block, EncoderSource, Note, Outcome, Work
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.errors import ClusterError, Llm2ClipError, first_line

ROUNDS = 3
"""Pipelines in a row that may fail without completing a unit."""
RETRIES = 3
"""Of a task whose worker dies, and of an actor, within a pipeline."""


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
            count = 0
            for count, unit in enumerate(units, 1):
                staging.put(unit_name(count - 1), pickle.dumps(unit, pickle.HIGHEST_PROTOCOL))
            run = Run(
                work=work,
                encoder=source,
                staging=staging,
                batch_size=batch_size,
                together=together,
                reader_threads=config.reader_threads,
                folder=str(Path.cwd()),
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
        pipeline = _Pipeline(run, sorted(arrivals.missing), config, usage)
        try:
            for outcome in pipeline:
                usage.add(outcome)
                arrivals.add(outcome)
                for name, skipped in arrivals.in_order():
                    yield from _results(run, name, skipped)
        except _LostWorkError as error:
            failure = str(error)
        finally:
            pipeline.stop()
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


class _LostWorkError(Exception):
    """A pipeline has failed for a reason that another one need not have."""


class _Pipeline:
    """One execution of a pipeline, watched from outside: Ray Data itself waits for ever for a node that is gone."""

    def __init__(self, run: Run, units: list[int], config: ClusterConfig, usage: Usage) -> None:
        self._run, self._units, self._config, self._usage = run, units, config, usage
        self._arrived: queue.Queue[Outcome | BaseException | None] = queue.Queue(maxsize=1024)
        self._stopped = False

    def __iter__(self) -> Iterator[Outcome]:
        alive = nodes()
        self._usage.nodes |= {node.id: node for node in alive}
        dataset = _dataset(self._run, self._units, self._config, alive)
        Thread(target=self._consume, args=(dataset,), name="ray-data", daemon=True).start()
        while True:
            try:
                arrived = self._arrived.get(timeout=self._config.stall_s)
            except queue.Empty:
                raise _LostWorkError(f"no result has come for {self._config.stall_s:,.0f} s") from None
            if arrived is None:
                return
            if isinstance(arrived, BaseException):
                raise _cause(arrived) from arrived
            yield arrived

    def stop(self) -> None:
        """Let go of the cluster."""
        self._stopped = True
        while not self._arrived.empty():
            self._arrived.get_nowait()

    def _consume(self, dataset: Any) -> None:
        try:
            for rows in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                for pickled in rows.column("outcome").to_pylist():
                    self._arrived.put(pickle.loads(pickled))
                if self._stopped:
                    return
            self._arrived.put(None)
        except BaseException as error:
            self._arrived.put(error)


def _dataset(run: Run, units: list[int], config: ClusterConfig, alive: list[Node]) -> Any:
    """The pipeline, not started."""
    import ray
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing it has set another one
    share = pool_of(alive, config)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    context.target_max_block_size = BLOCK_BYTES
    context.max_errored_blocks = 0
    reference = ray.put(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # retries of reading have no other way in yet
        return _planned(reference, units, share, alive)


def _planned(reference: Any, units: list[int], share: "Pool", alive: list[Node]) -> Any:
    from ray.data import ActorPoolStrategy, read_datasource

    from llm2clip_search.cluster.datasource import Units

    return (
        read_datasource(
            Units([partial(read_unit, reference, number) for number in units]),
            override_num_blocks=len(units),
            num_cpus=share.reader_cpus,
            ray_remote_args={"max_retries": RETRIES},
        )
        .map_batches(
            BlockEncoder,
            fn_constructor_args=(reference,),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=min(share.encoders, len(units)), max_tasks_in_flight_per_actor=2),
            num_cpus=share.encoder_cpus,
            num_gpus=share.encoder_gpus,
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
            ray_remote_args_fn=_one_after_the_other(alive) if not share.encoder_gpus else None,
        )
        .map_batches(
            store_blocks,
            fn_kwargs={"reference": reference},
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=share.writer_cpus,
            max_retries=RETRIES,
        )
    )


def _one_after_the_other(alive: list[Node]) -> Callable[[], dict[str, Any]]:
    """Where encoders start: each on the next node, as long as there is that node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ids = cycle([node.id for node in alive if node.cpus])
    return lambda: {"scheduling_strategy": NodeAffinitySchedulingStrategy(next(ids), soft=True)}


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


def _cause(error: BaseException) -> BaseException:
    """What to raise for an error of Ray Data: our own error within it, or lost work."""
    import ray

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Llm2ClipError):
            return seen
        inner = getattr(seen, "cause", None)
        if isinstance(inner, Llm2ClipError):
            return inner
        if isinstance(seen, ray.exceptions.RayTaskError) and not isinstance(inner, ray.exceptions.RayError | None):
            return ClusterError(f"A task of the cluster failed: {type(inner).__name__}: {first_line(inner)}.")
        seen = seen.__cause__ or (inner if isinstance(inner, BaseException) else None)
    return _LostWorkError(first_line(error) if isinstance(error, Exception) else repr(error))
