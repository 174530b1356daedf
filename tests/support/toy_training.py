"""A stage small enough to be run many times: contrastive training of two tiny towers."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.errors import ModelError
from llm2clip_search.training.runtime.distributed import Sharding, World, join_process_group
from llm2clip_search.training.runtime.gradcache import backward_in_parts
from llm2clip_search.training.runtime.loop import LoopRecipe, Task, run_loop
from llm2clip_search.training.runtime.micro_batches import MicroBatches
from llm2clip_search.training.runtime.parameter_groups import ParameterGroup
from llm2clip_search.training.runtime.seeds import generator
from llm2clip_search.training.runtime.sharding import distribute_module, full_tensor
from llm2clip_search.training.tasks.losses import clip_loss

RECIPE = LoopRecipe(
    steps=12,
    learning_rate=0.02,
    warmup_steps=3,
    weight_decay=0.1,
    clip_norm=0.5,
    ema_decay=0.9,
    checkpoint_every=3,
    evaluate_every=4,
)


class ToyTask:
    """A contrastive task like the real stages; the image tower starts with a frozen layer."""

    def __init__(
        self,
        world: World,
        *,
        batch: int = 7,
        cache: bool = False,
        dropout: float = 0.0,
        poison: Mapping[int, str] | None = None,
    ) -> None:
        """``poison`` maps steps to what happens there: NaN in ``loss`` or ``gradient``, ``stop`` of the run, or lack of
        ``memory`` for graphs of more than one row.
        """
        torch.manual_seed(0)
        self.world, self.batch, self.poison = world, batch, poison or {}
        self.micro_batches = MicroBatches(size=2, cached=cache)
        self.samples_per_step = batch
        self.steps_run = 0
        blocks = [nn.Sequential(nn.Linear(9, 9), nn.GELU(), nn.Dropout(dropout), nn.LayerNorm(9)) for _ in range(2)]
        self.images = nn.Sequential(nn.Linear(6, 9), *blocks, nn.Linear(9, 4))
        self.images[0].requires_grad_(False)
        self.texts = nn.Sequential(nn.Linear(5, 9), nn.GELU(), nn.Linear(9, 4))
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.untouched = nn.Parameter(torch.ones(2, 2))
        distribute_module(self.images, blocks, world)

    def groups(self) -> list[ParameterGroup]:
        images = {f"images.{n}": p for n, p in self.images.named_parameters() if p.requires_grad}
        texts = {f"texts.{n}": p for n, p in self.texts.named_parameters()}
        return [
            ParameterGroup(parameters=images, scale=0.5),
            ParameterGroup(parameters=texts | {"untouched": self.untouched}),
            ParameterGroup(parameters={"log_scale": self.log_scale}, complete=True),
        ]

    def backward(self, step: int) -> dict[str, float]:
        self.steps_run += 1
        if self.poison.get(step) == "stop":
            raise InterruptedError
        images, texts = toy_batch(step, self.batch)
        own = self.world.slice(self.batch)
        rows = torch.arange(own.start, own.stop).tensor_split(
            self.world.num_micro_batches(self.batch, size=self.micro_batches.size)
        )
        drawn = int(torch.randint(2**40, ()))

        def encode(part: int) -> torch.Tensor:
            held = len(rows[part]) if self.micro_batches.cached else self.batch
            if self.poison.get(step) == "memory" and held > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            torch.manual_seed(drawn + part)
            return F.normalize(self.images(images[rows[part]]), dim=-1)

        def loss_of(embedded: torch.Tensor) -> torch.Tensor:
            everyone = self.world.gather(embedded, self.batch)
            captions = self.world.gather(F.normalize(self.texts(texts[own]), dim=-1), self.batch)
            return clip_loss(everyone, captions, self.log_scale.exp())

        loss = backward_in_parts(encode, len(rows), loss_of, cache=self.micro_batches.cached)
        if self.poison.get(step) == "gradient" and self.log_scale.grad is not None:
            self.log_scale.grad.fill_(torch.nan)
        return {"loss": float("nan") if self.poison.get(step) == "loss" else float(loss)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        images, texts = toy_batch(10**6, 32)
        self.images.eval()
        loss = clip_loss(F.normalize(self.images(images), dim=-1), F.normalize(self.texts(texts), dim=-1), 10.0)
        self.images.train()
        return {"minus_loss": -float(loss)}

    def weights(self) -> dict[str, torch.Tensor]:
        """Full tensors of everything that is trained; collective."""
        return {n: full_tensor(p).clone() for group in self.groups() for n, p in group.parameters.items()}


def toy_batch(step: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors ``[count, 6]`` and ``[count, 5]``, two views of the same hidden vectors."""
    draws = generator(7, step, "toy")
    hidden, noise = draws.normal(size=(count, 6)), draws.normal(size=(count, 5))
    return torch.from_numpy(hidden).float(), torch.from_numpy(hidden[:, :5] + 0.1 * noise).float()


def train(
    task: Task,
    out: Path,
    recipe: LoopRecipe = RECIPE,
    *,
    inputs: str = "toy",
    world: World = World(),
    progress: Progress = no_progress,
) -> dict[str, float]:
    """`run_loop` with defaults for one process."""
    out.mkdir(parents=True, exist_ok=True)
    return run_loop(task, recipe, out=out, inputs=inputs, world=world, progress=progress).figures


# Functions that run in processes of their own.

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.toy_training"])


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = FORKS.Process(target=target, args=arguments)
    process.start()
    return process


def train_and_die(out: Path, point: str, count: int) -> None:
    """Train until ``point`` is reached for the ``count``-th time, then kill this process with SIGKILL."""
    seen = 0

    def reached(name: str, *_: object) -> None:
        nonlocal seen
        seen += name == point
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    rename = Path.replace

    def rename_and_report(self: Path, target: Path) -> Path:
        reached(f"{target.name} unnamed")
        renamed = rename(self, target)
        reached(f"{target.name} in place")
        return renamed

    torch.set_num_threads(1)
    with mock.patch.object(Path, "replace", rename_and_report):
        train(ToyTask(World(), dropout=0.2), out, progress=reached)


def train_on_ranks(rank: int, port: int, runs: list[dict[str, Any]]) -> None:
    """Train as one of two ranks; each of ``runs`` holds arguments of `train_here`."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    for run in runs:
        train_here(**run)
    dist.destroy_process_group()


def train_here(out: Path, *, sharding: Sharding = "replicate", poison: str | None = None, **task: Any) -> None:
    """Train in this process group and write ``weights.pt`` to ``out``; ``poison`` happens at step 7."""
    world = join_process_group("cpu", sharding)
    toy = ToyTask(world, poison={7: poison} if poison else None, **task)
    try:
        figures = train(toy, out, world=world)
    except InterruptedError:
        return
    except ModelError as error:
        (out / f"error-{world.rank}.txt").write_text(str(error))
        return
    weights = toy.weights()
    if world.is_main:
        torch.save({"weights": weights, "figures": figures}, out / "weights.pt")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
