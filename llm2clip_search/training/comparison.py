"""Stage 2 and the joint baseline side by side: the comparison that LLM2CLIP rests on.

Both see the same images and captions in the same order, in a process of its own each, one after the other.
"""

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
from llm2clip_search.base.progress import Progress
from llm2clip_search.errors import Llm2ClipError, ModelError
from llm2clip_search.training.data.caption_table import read_caption_table
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.runtime.allocator import keep_freed_memory
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.loop import run_loop
from llm2clip_search.training.tasks.clip import ClipTask
from llm2clip_search.training.tasks.clip_data import read_clip_data
from llm2clip_search.training.tasks.distillation import stored_clip_tower
from llm2clip_search.training.tasks.joint import JointTask, joint_recipe
from llm2clip_search.training.tasks.llm_folder import read_llm

Method = Literal["stage 2", "joint"]


@dataclass(frozen=True, kw_only=True)
class MethodMeasurement:
    """What one of the two took, and what it reached."""

    method: Method
    samples: int
    """Images that were trained on."""
    setup_seconds: float
    """From the start of the process to the first step: towers, what is kept of images."""
    seconds_per_sample: float
    """Of the steps behind the first, which is slower than the others."""
    peak_bytes: int
    """Up to the last step: of the GPU's memory, or of the process where there is none."""
    recall: Mapping[str, float]
    """On dev, as `ClipTask.evaluate` gives it; empty where the recipe names no dev split."""

    @property
    def samples_per_second(self) -> float:
        return 1.0 / self.seconds_per_sample


@dataclass(frozen=True, kw_only=True)
class TrainingComparison:
    """Both, in one run on one machine."""

    recipe: str
    device: str
    stage2: MethodMeasurement
    joint: MethodMeasurement

    @property
    def ratio(self) -> float:
        """Samples a second of stage 2, in those of the joint baseline."""
        return self.joint.seconds_per_sample / self.stage2.seconds_per_sample

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What a process is told; all of it can be pickled."""

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
    """Train both on the same ``samples`` images, rounded up to whole batches, two at least.

    Args:
        llm: folder that stage 1 wrote; ``store`` holds its embeddings of stage 2's captions and of dev's.

    Raises:
        CorpusError: images or captions that are not there, or do not belong together.
        ModelError: weights that cannot be fetched, a loss that is no number, or a process that was killed.
        StoreError: a store of another LLM, or without some of the captions.
    """

    def run(method: Method) -> MethodMeasurement:
        job = _Job(method=method, recipe=recipe, root=root, llm=llm, store=store, samples=samples, device=device)
        return _in_a_process(job, progress)

    return TrainingComparison(recipe=recipe.name, device=device, stage2=run("stage 2"), joint=run("joint"))


def _in_a_process(job: _Job, progress: Progress) -> MethodMeasurement:
    """Run a job in a fresh interpreter, so that its peak of memory is its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(job, theirs))
    process.start()
    theirs.close()
    try:
        while True:
            said = ours.recv()
            if isinstance(said, Llm2ClipError):
                raise said
            if isinstance(said, MethodMeasurement):
                return said
            progress(*said)
    except EOFError as error:
        process.join()
        raise ModelError(
            f"The process of {job.method} ended with exit code {process.exitcode} before it was measured;"
            " -9 is mostly a lack of memory."
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
    task = _task(job, scratch, progress)
    ready = time.perf_counter()
    steps = max(2, -(-job.samples // task.samples_per_step))
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
            peaks.append(_peak_bytes(job.device))
        progress(f"{job.method}, {what}", done, total, figures)

    recall = run_loop(task, recipe, out=scratch, inputs="", world=World(device=job.device), progress=watch)
    return MethodMeasurement(
        method=job.method,
        samples=steps * task.samples_per_step,
        setup_seconds=ready - began,
        seconds_per_sample=(ends[-1] - ends[0]) / ((steps - 1) * task.samples_per_step),
        peak_bytes=peaks[-1],
        recall=recall,
    )


def _task(job: _Job, scratch: Path, progress: Progress) -> ClipTask:
    """Stage 2 as `stages.train_clip` sets it up, or the baseline with the same data."""
    folder = read_llm(job.llm)
    data = job.recipe.data
    read, _ = read_clip_data(
        data,
        root=job.root,
        llm=folder,
        store=job.store,
        clip=stored_clip_tower(job.recipe.stage2.model, job.recipe.stage2.keep),
        max_missing=job.recipe.stage2.max_missing,
    )
    world = World(device=job.device)
    if job.method == "stage 2":
        # Steps that only distil cost less than those that are compared.
        return ClipTask(replace(job.recipe.stage2, keep=None), read, world=world, scratch=scratch, progress=progress)
    texts: dict[str, list[str]] = {}
    if data.dev is not None:
        table, _ = read_caption_table(job.root, [data.dev])
        for lang, text in zip(table["lang"].to_pylist(), table["caption"].to_pylist(), strict=True):
            texts.setdefault(lang, []).append(text)
    return JointTask(
        joint_recipe(job.recipe.stage1, job.recipe.stage2),
        read,
        llm=folder,
        dev_texts=texts,
        world=world,
        scratch=scratch,
        progress=progress,
    )


def _peak_bytes(device: str) -> int:
    """Of this process until now."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes()
