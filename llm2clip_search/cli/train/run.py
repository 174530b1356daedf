"""What the commands of both training stages have in common."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from llm2clip_search.cli import console

if TYPE_CHECKING:
    from llm2clip_search.base.progress import Progress
    from llm2clip_search.training.runtime.distributed import World


def run_stage(
    train: Callable[["World", "Progress"], Mapping[str, float]],
    *,
    device: str,
    sharding: Literal["replicate", "shard"],
    done: str,
) -> None:
    """Run a stage in this process, or in those that torchrun started; rank 0 prints its metrics on dev.

    Args:
        train: runs the stage and returns its metrics.
        done: a line for stderr, printed at the end.
    """
    from llm2clip_search.cli.progress import ProgressBar
    from llm2clip_search.training.runtime.distributed import join_process_group

    world = join_process_group(device, sharding)
    with ProgressBar(log=True) as progress:
        figures = train(world, progress)
    if world.is_main:
        for name, value in figures.items():
            console.out.print(f"dev {name} {value:.4f}")
        console.say(done)
