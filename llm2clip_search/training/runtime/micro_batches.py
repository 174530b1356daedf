"""How a batch is divided into micro-batches, and what is done when memory runs out in a step."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from llm2clip_search.encoders.within_memory import is_out_of_memory
from llm2clip_search.errors import ModelError, first_line

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class MicroBatches:
    """The division of a batch. It decides memory and rounding, but not the loss: that is always of the whole batch."""

    size: int
    """Rows in one forward pass, at least 1."""
    cached: bool
    """Whether rows are embedded twice and only one micro-batch has its graph in memory; see `gradcache`."""

    def shrink(self) -> bool:
        """Take less memory; False if that is not possible.

        Without gradient caching the graphs of all micro-batches are in memory, so smaller ones would change nothing.
        """
        if not self.cached:
            self.cached = True
        elif self.size > 1:
            self.size = -(-self.size // 2)
        else:
            return False
        return True


def division_by_length(division: MicroBatches, lengths: Sequence[int], *, planned: float) -> MicroBatches:
    """The division of a batch of captions: as it is, unless they take more memory than planned.

    A batch of long captions would hold a multiple of the graph. Its rows are embedded twice instead, so that only
    one micro-batch has its graph in memory, in micro-batches of fewer rows.

    Args:
        lengths: tokens of each caption of the batch, those of all ranks.
        planned: tokens of a caption that memory was planned with.
    """
    if not lengths:
        return division
    ordered = np.sort(lengths)
    parts = np.array_split(ordered, -(-len(ordered) // division.size))
    if sum(len(part) * int(part[-1]) for part in parts) <= planned * len(ordered):
        return division
    return MicroBatches(size=max(1, int(division.size * planned / ordered[-1])), cached=True)


class Divided(Protocol):
    """A task whose batches can be divided."""

    micro_batches: MicroBatches

    def backward(self, step: int) -> dict[str, float]:
        """As `loop.Task.backward`."""


def backward_within_memory(
    task: Divided, step: int, *, prepare: Callable[[], None], can_retry: bool
) -> dict[str, float]:
    """Accumulate the gradients of a step; if memory runs out, do so again with a finer division, from then on.

    A finer division gives the same gradients up to rounding, apart from dropout, whose draws belong to micro-batches.

    Args:
        prepare: called before each attempt; it clears gradients and seeds torch.
        can_retry: False for one of several ranks, because the others wait for what this one was about to send.

    Raises:
        ModelError: memory ran out, and the division cannot be finer.
    """
    parts, shrunk = task.micro_batches, False
    while True:
        prepare()
        try:
            figures = task.backward(step)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not can_retry or not parts.shrink():
                raise ModelError(
                    f"Memory ran out at step {step + 1} with micro-batches of {parts.size} and gradient caching"
                    f" {'on' if parts.cached else 'off'}: {first_line(error)}.",
                    hint="Take a smaller batch_size, or train fewer blocks."
                    if can_retry
                    else "Set gradient_cache = true and a smaller micro_batch in the recipe.",
                ) from error
            shrunk = True
        else:
            if shrunk:
                logger.warning(
                    "Memory ran out at step %d; from now on, micro-batches have %d rows, and gradients are cached.",
                    step + 1,
                    parts.size,
                )
            return figures
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what the failed attempt held is free only now
