"""Comparison of stage 2 with the joint baseline: the central claim of LLM2CLIP.

Both train on the same images and captions in the same order, one after the other, each in its own process.
"""

import math
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from llm2clip_search.base.memory import peak_bytes
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.errors import Llm2ClipError, ModelError
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.runtime.allocator import keep_freed_memory
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.loop import run_loop
from llm2clip_search.training.runtime.metrics_log import headlines
from llm2clip_search.training.tasks.clip import ClipTask
from llm2clip_search.training.tasks.clip_data import read_clip_data
from llm2clip_search.training.tasks.distillation import stored_clip_tower
from llm2clip_search.training.tasks.joint import JointTask, joint_recipe
from llm2clip_search.training.tasks.llm_folder import read_llm

Method = Literal["stage 2", "joint"]


@dataclass(frozen=True, kw_only=True)
class MethodMeasurement:
    """Cost and result of training with one method."""

    method: Method
    samples: int
    """Number of images trained on."""
    setup_seconds: float
    """Time before the first step: loading towers, caching views."""
    seconds_per_sample: float
    """Mean over all steps but the first, which is slower."""
    peak_bytes: int
    """Peak memory until the last step: of the GPU, or of the process without one."""
    recall: Mapping[str, float]
    """Recalls on dev, see `ClipTask.evaluate`; empty without a dev split."""

    @property
    def samples_per_second(self) -> float:
        return 1.0 / self.seconds_per_sample


@dataclass(frozen=True, kw_only=True)
class TrainingComparison:
    """Measurements of both methods in one run on one machine."""

    recipe: str
    device: str
    stage2: MethodMeasurement
    joint: MethodMeasurement

    @property
    def ratio(self) -> float:
        """Throughput of stage 2 relative to the joint baseline."""
        return self.joint.seconds_per_sample / self.stage2.seconds_per_sample

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The arguments of a process; all of them can be pickled."""

    method: Method
    recipe: Recipe
    root: Path
    llm: Path
    store: Path
    samples: int
    device: str


def compare_training(
    recipe: Recipe, *, root: Path, llm: Path, store: Path, samples: int, device: str, progress: Progress
) -> TrainingComparison:
    """Train with both methods on the same ``samples`` images, rounded up to whole batches, at least two.

    Args:
        llm: folder that stage 1 wrote.
        store: caption store with that LLM's embeddings of the captions of stage 2 and of dev.

    Raises:
        CorpusError: images or captions are missing or do not match.
        ModelError: weights cannot be fetched, the loss is not finite, or a process was killed.
        StoreError: the store was made by another LLM, or lacks some of the captions.
    """

    def run(method: Method) -> MethodMeasurement:
        job = _Job(method=method, recipe=recipe, root=root, llm=llm, store=store, samples=samples, device=device)
        return _in_a_process(job, progress)

    return TrainingComparison(recipe=recipe.name, device=device, stage2=run("stage 2"), joint=run("joint"))


def _in_a_process(job: _Job, progress: Progress) -> MethodMeasurement:
    """Run a job in a new interpreter, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(job, theirs))
    process.start()
    theirs.close()
    try:
        while True:
            message = ours.recv()
            if isinstance(message, Llm2ClipError):
                raise message
            if isinstance(message, MethodMeasurement):
                return message
            progress(*message)
    except EOFError as error:
        process.join()
        raise ModelError(
            f"The process that trained {job.method} ended early with exit code {process.exitcode};"
            " -9 usually means that memory ran out."
        ) from error
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()


def _work(job: _Job, connection: Connection) -> None:
    keep_freed_memory()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            connection.send(_measure(job, Path(scratch), lambda *event: connection.send(event)))
    except Llm2ClipError as error:
        connection.send(error)


def _measure(job: _Job, scratch: Path, progress: Progress) -> MethodMeasurement:
    began = time.perf_counter()
    task = method_task(
        job.method,
        job.recipe,
        root=job.root,
        llm=job.llm,
        store=job.store,
        device=job.device,
        scratch=scratch,
        progress=progress,
    )
    ready = time.perf_counter()
    steps = max(2, -(-job.samples // task.samples_per_step))
    timed = timed_steps(
        task,
        steps,
        out=scratch,
        world=World(device=job.device),
        progress=named(progress, job.method),
    )
    return MethodMeasurement(
        method=job.method,
        samples=steps * task.samples_per_step,
        setup_seconds=ready - began,
        seconds_per_sample=timed.seconds / task.samples_per_step,
        peak_bytes=timed.peak_bytes,
        recall=timed.recall,
    )


def named(progress: Progress, run: str) -> Progress:
    """The progress of one of several runs, under its name; of an evaluation, the headlines."""

    def report(what: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        if what == "evaluated":
            progress(run, 0, 0, {name: figures[name] for name in headlines(figures)})
        else:
            progress(f"{run}, {what}", done, total, figures)

    return report


@dataclass(frozen=True, kw_only=True)
class TimedSteps:
    """Some steps of stage 2, taken as in a run."""

    seconds: float
    """Of a step, the mean over all but the first, which is slower; NaN on all ranks but the first."""
    peak_bytes: int
    """As `MethodMeasurement.peak_bytes`."""
    recall: Mapping[str, float]
    """As `MethodMeasurement.recall`."""


def timed_steps(task: ClipTask, steps: int, *, out: Path, world: World, progress: Progress) -> TimedSteps:
    """Take steps with the rates of the task's recipe, without evaluations before the end.

    Args:
        steps: at least two.
        out: an empty folder, see `loop.run_loop`.

    Raises:
        ModelError: the loss is not finite, or memory runs out.
    """
    recipe = replace(
        task.recipe.loop,
        steps=steps,
        warmup_steps=min(task.recipe.loop.warmup_steps, steps),
        checkpoint_every=steps,
        evaluate_every=0,
    )
    ends: list[float] = []
    peaks: list[int] = []

    def watch(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if what == "training":
            ends.append(time.perf_counter())
            peaks.append(_peak_bytes(world.device))
        progress(what, done, total, figures)

    result = run_loop(task, recipe, out=out, inputs="", world=world, progress=watch)
    return TimedSteps(
        seconds=(ends[-1] - ends[0]) / (steps - 1) if ends else math.nan,
        peak_bytes=max(peaks, default=0),
        recall=result.figures,
    )


def method_task(
    method: Method,
    recipe: Recipe,
    *,
    root: Path,
    llm: Path,
    store: Path,
    device: str,
    scratch: Path,
    progress: Progress = no_progress,
) -> ClipTask:
    """The task of one method: stage 2 as `stages.train_clip` sets it up, or the joint baseline on the same data.

    Args:
        scratch: folder for cached views.

    Raises:
        CorpusError, ModelError, StoreError: as `compare_training`.
    """
    folder = read_llm(llm)
    stage2 = recipe.stage2
    read, _ = read_clip_data(
        recipe.data,
        root=root,
        llm=folder,
        store=store,
        clip=stored_clip_tower(stage2.model, stage2.keep),
        max_missing=stage2.max_missing,
    )
    world = World(device=device)
    if method == "stage 2":
        # Without distillation: its warm-up steps cost less than the steps to be compared.
        return ClipTask(replace(stage2, keep=None), read, world=world, scratch=scratch, progress=progress)
    return JointTask(
        joint_recipe(recipe.stage1, stage2),
        read,
        llm=folder,
        world=world,
        scratch=scratch,
        progress=progress,
    )


def _peak_bytes(device: str) -> int:
    """Peak memory so far, on the GPU or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes()
