"""The Ray Data pipeline of a run: tasks that read and decode, actors that encode, tasks that store."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, read_datasource
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llm2clip_search.cluster.connection import Node
from llm2clip_search.cluster.datasource import Units
from llm2clip_search.cluster.pool import Pool
from llm2clip_search.cluster.tasks import BlockEncoder, read_unit, store_blocks
from llm2clip_search.cluster.work import BLOCK_BYTES, LostWorkError, Outcome
from llm2clip_search.errors import ClusterError, Llm2ClipError, first_line

RETRIES = 3
"""Of a task whose worker dies, and of an actor, within a pipeline."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Conductor:
    """Runs a pipeline; an actor, so that killing it ends the pipeline whatever state it is in."""

    def outcomes(
        self, reference: list[Any], units: list[int], pool: Pool, alive: list[Node]
    ) -> Iterator[list[Outcome] | Exception]:
        """Blocks that are stored, as they come; at last, the error that ends the pipeline, if there is one.

        Args:
            reference: of the `Run`, in a list so that Ray does not fetch it.
            units: numbers of the units to do.
        """
        import pickle

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.issue_detectors_config.detectors = []
        context.target_max_block_size = BLOCK_BYTES
        context.max_errored_blocks = 0
        context.raise_original_map_exception = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # retries of reading have no other way in yet
                dataset = _planned(reference[0], units, pool, alive)
            for rows in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                yield [pickle.loads(each) for each in rows.column("outcome").to_pylist()]
        except Exception as error:
            yield _cause(error)


def _planned(reference: Any, units: list[int], pool: Pool, alive: list[Node]) -> Any:
    """The pipeline, not started."""
    return (
        read_datasource(
            Units([partial(read_unit, reference, number) for number in units]),
            override_num_blocks=len(units),
            num_cpus=pool.reader_cpus,
            ray_remote_args={"max_retries": RETRIES},
        )
        .map_batches(
            BlockEncoder,
            fn_constructor_args=(reference,),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=pool.encoders, max_tasks_in_flight_per_actor=2),
            num_cpus=pool.encoder_cpus,
            num_gpus=pool.encoder_gpus,
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
            ray_remote_args_fn=None if pool.encoder_gpus else _one_after_the_other(alive),
        )
        .map_batches(
            store_blocks,
            fn_kwargs={"reference": reference},
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=pool.writer_cpus,
            max_retries=RETRIES,
        )
    )


def _one_after_the_other(alive: list[Node]) -> Callable[[], dict[str, Any]]:
    """Where encoders start: each on the next node, as long as there is that node."""
    ids = cycle([node.id for node in alive if node.cpus])
    return lambda: {"scheduling_strategy": NodeAffinitySchedulingStrategy(next(ids), soft=True)}


def _cause(error: BaseException) -> Exception:
    """What an error of Ray Data means: our own error within it, or work that was lost."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None)
        for each in (inner, seen):  # Ray's own errors may be ours as well, with another message
            if isinstance(each, Llm2ClipError) and not isinstance(each, ray.exceptions.RayError):
                each.args = (str(each).partition("\n")[0],)  # Ray has added what it did
                return each
        if isinstance(seen, ray.exceptions.RayTaskError) and not isinstance(inner, ray.exceptions.RayError | None):
            return ClusterError(f"A task of the cluster failed: {type(inner).__name__}: {first_line(inner)}.")
        seen = seen.__cause__ or (inner if isinstance(inner, BaseException) else None)
    said = first_line(error) if isinstance(error, Exception) else repr(error)
    return LostWorkError(_COLOURS.sub("", said))
