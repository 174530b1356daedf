"""The training loop of every stage: schedule, moving average, evaluation, checkpoints, logs.

All randomness of a step is derived from ``(seed, step)``, so checkpoints need no generator state and a resumed run
ends with the same weights.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from llm2clip_search.base.files import remove_leftovers
from llm2clip_search.base.memory import return_freed_memory
from llm2clip_search.base.progress import Progress
from llm2clip_search.errors import ModelError
from llm2clip_search.training.runtime.checkpoint import START_OVER, Tensors, TrainingCheckpoint
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.metrics_log import MetricsLog
from llm2clip_search.training.runtime.micro_batches import MicroBatches, backward_within_memory
from llm2clip_search.training.runtime.parameter_groups import ParameterGroup, split_by_kind
from llm2clip_search.training.runtime.seeds import seed_torch
from llm2clip_search.training.runtime.sharding import full_tensor, gather_shards, is_sharded, local_shard, shard_like


@dataclass(frozen=True, kw_only=True)
class LoopRecipe:
    """Optimisation of a stage: AdamW, with linear warm-up and cosine decay to zero."""

    steps: int
    """Number of steps, if training does not end early; 0 evaluates the weights and keeps them as they are."""
    learning_rate: float
    """Peak learning rate; a parameter group may scale it."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises to its peak."""
    weight_decay: float = 0.0
    """Applies to matrices only, not to vectors (norms, biases, temperatures)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of its moments."""
    clip_norm: float = 1.0
    """Maximum global gradient norm; 0 disables clipping."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights that is evaluated and kept; 0 uses the weights themselves."""
    mix: float = 0.0
    """Share of the initial weights in those that are evaluated and kept; 0 for none. Half of the weights of a model
    that training begins from keep most of what it knew (Wortsman et al., arXiv 2109.01903)."""
    checkpoint_every: int = 50
    """In steps."""
    evaluate_every: int = 0
    """In steps; 0 evaluates only at the end."""
    patience: int = 0
    """Evaluations in a row without an improvement after which training ends early; 0 takes all steps."""
    seed: int = 0
    """Decides all random draws."""

    def __post_init__(self) -> None:
        allowed = {
            "steps": self.steps >= 0,
            "learning_rate": 0.0 < self.learning_rate < math.inf,
            "warmup_steps": 0 <= self.warmup_steps <= self.steps,
            "weight_decay": self.weight_decay >= 0.0,
            "betas": all(0.0 <= beta < 1.0 for beta in self.betas),
            "clip_norm": self.clip_norm >= 0.0,
            "ema_decay": 0.0 <= self.ema_decay < 1.0,
            "mix": 0.0 <= self.mix < 1.0,
            "checkpoint_every": self.checkpoint_every >= 1,
            "evaluate_every": self.evaluate_every >= 0,
            "patience": self.patience >= 0,
        }
        for name, is_allowed in allowed.items():
            if not is_allowed:
                raise ModelError(f"A run of {self.steps} steps cannot have {name} {getattr(self, name)}.")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0; the same as open_clip's ``cosine_lr``."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


class Task(Protocol):
    """A stage of training: what a step computes, and how the weights are evaluated.

    All ranks make the same calls. Only the parameters in `groups` may change between steps, or a resumed run would
    differ: batch normalisation, for example, has to use its stored statistics.
    """

    samples_per_step: int
    micro_batches: MicroBatches

    def groups(self) -> list[ParameterGroup]:
        """All trained parameters."""

    def backward(self, step: int) -> dict[str, float]:
        """Accumulate the gradients of a step's whole batch; returns its metrics, including ``loss``."""

    def evaluate(self) -> dict[str, float]:
        """Metrics of the current weights. The first one selects the best checkpoint; larger is better."""


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """What a run ended with."""

    figures: dict[str, float]
    """Metrics of the selected evaluation; empty without one."""
    before: dict[str, float]
    """Metrics before the first step, if these were asked for."""
    steps: int
    """Number of steps that were taken; fewer than the recipe's if training ended early."""
    selected: int
    """Steps after which the selected weights were evaluated."""


def run_loop(
    task: Task,
    recipe: LoopRecipe,
    *,
    out: Path,
    inputs: str,
    world: World,
    progress: Progress,
    evaluate_first: bool = False,
    evaluated: Callable[[int, bool], None] = lambda step, improved: None,
) -> LoopResult:
    """Train, resuming from ``out/last.pt`` if it exists; afterwards the task holds the selected weights.

    The weights of the best evaluation are selected, or the last ones if there is no evaluation. Writes
    ``metrics.jsonl``, TensorBoard events and ``last.pt``, which includes the best weights, to ``out``. A completed
    run is not repeated. All ranks read ``last.pt``; rank 0 writes it.

    Args:
        inputs: digest of the recipe and the data; a checkpoint of other inputs is refused.
        evaluate_first: evaluate before the first step too, for weights that begin as those of a model. They are
            selected if no later evaluation is better.
        evaluated: called on rank 0 after an evaluation, with the number of completed steps and whether it is the best
            so far.

    Raises:
        ModelError: the loss or the gradient is not finite (the message names the step and the last good
            checkpoint), or the checkpoint is damaged or of other inputs.
    """
    state = _RunState(task, recipe, world)
    return_freed_memory()  # of statistics and views
    last = out / "last.pt"
    if world.is_main:
        for name in ("last.pt", "metrics.jsonl"):
            remove_leftovers(out / name)
    if world.broadcast({"resumes": last.exists()})["resumes"]:
        state.resume(last, inputs)
    elif evaluate_first or not recipe.steps:
        state.before = state.evaluate()
        state.keep_if_best(state.before)
    start, began = state.step, time.perf_counter()
    log = MetricsLog(out, resume_at=start) if world.is_main and start < recipe.steps and not state.is_over else None
    _say_start(state, log, progress, evaluated)
    for step in range(start, recipe.steps):
        if state.is_over:
            break
        step_began = time.perf_counter()
        figures = backward_within_memory(task, step, prepare=partial(state.prepare, step), can_retry=world.size == 1)
        figures["gradient_norm"] = state.reduce_gradients()
        figures = world.broadcast(figures)
        _require_finite(figures, state, last)
        state.update(figures["gradient_norm"])
        done = state.step
        if log:
            speed = {"samples_per_second": (done - start) * task.samples_per_step / (time.perf_counter() - began)}
            took = {"seconds": time.perf_counter() - step_began}
            log.write(done, figures | {"learning_rate": recipe.rate(step)} | speed | took)
            progress("training", done, recipe.steps, figures | speed)
        complete, improved = done == recipe.steps, False
        if complete or (recipe.evaluate_every and done % recipe.evaluate_every == 0):
            with state.kept_weights():
                scores = state.evaluate()
                improved = state.keep_if_best(scores)
            if log and scores:
                log.write(done, {f"dev/{name}": value for name, value in scores.items()})
                progress("evaluated", done, recipe.steps, scores)
                evaluated(done, improved)
        # Save an improvement at once, so that a non-finite loss in a later step cannot lose it.
        if complete or improved or state.is_over or done % recipe.checkpoint_every == 0:
            state.save(last, inputs)
    if log:
        log.close()
    world.barrier()
    state.restore(state.best_weights or state.mixed())
    return LoopResult(figures=state.best, before=state.before, steps=state.step, selected=state.best_step)


def _say_start(
    state: "_RunState", log: MetricsLog | None, progress: Progress, evaluated: Callable[[int, bool], None]
) -> None:
    """Report from which step on a run goes on, or what a model that it begins from has reached."""
    if log and state.step:
        progress("resumed", 0, 0, {"steps done": state.step, "steps in all": state.recipe.steps})
    elif log and state.before:
        log.write(0, {f"dev/{name}": value for name, value in state.before.items()})
        progress("evaluated", 0, state.recipe.steps, state.before)
        evaluated(0, True)


def _require_finite(figures: Mapping[str, float], state: "_RunState", last: Path) -> None:
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(figures[name]):
            saved = "no checkpoint was saved before"
            if state.saved_at:
                saved = f"the last good checkpoint is step {state.saved_at} in {last}"
            raise ModelError(
                f"The {name.replace('_', ' ')} is {figures[name]} at step {state.step + 1} of {state.recipe.steps},"
                f" learning rate {state.recipe.rate(state.step):.3g}; {saved}."
            )


class _RunState:
    """Weights, optimiser, moving average and best weights of a run; of sharded parameters, this rank's shard."""

    def __init__(self, task: Task, recipe: LoopRecipe, world: World) -> None:
        self.task, self.recipe, self.world = task, recipe, world
        self.groups = split_by_kind(task.groups())
        self.parameters = {name: p for group in self.groups for name, p in group.parameters.items()}
        assert len(self.parameters) == sum(len(group.parameters) for group in self.groups), "names must be unique"
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [*group.parameters.values()], "weight_decay": recipe.weight_decay * group.is_decayed}
                for group in self.groups
            ],
            lr=recipe.learning_rate,
            betas=recipe.betas,
        )
        self.step = 0
        """Number of completed steps."""
        self.saved_at = 0
        self.average = self.shards() if recipe.ema_decay else {}
        self.initial = self.shards() if recipe.mix else {}
        self.before: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.best_step = self.step
        self.best_weights: Tensors = {}
        self.stale = 0
        """Evaluations since the best one."""

    @property
    def is_over(self) -> bool:
        """Whether training has ended early."""
        return bool(self.recipe.patience) and self.stale >= self.recipe.patience

    def prepare(self, step: int) -> None:
        """Clear the gradients and seed torch, before the gradients of a step are computed."""
        seed_torch(self.recipe.seed, step, "step")
        self.optimizer.zero_grad()

    def reduce_gradients(self) -> float:
        """Sum the gradients over the ranks; returns their global norm."""
        self.world.sum_gradients([p for p in self.parameters.values() if not is_sharded(p)])
        for group in self.groups:
            for parameter in group.parameters.values() if group.complete else ():
                if parameter.grad is not None:
                    parameter.grad /= self.world.size
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        parts = [[g for g in gradients if is_sharded(g) == sharded] for sharded in (True, False)]
        return math.hypot(*(float(full_tensor(nn.utils.get_total_norm(part))) for part in parts if part))

    @torch.no_grad()
    def update(self, norm: float) -> None:
        """Update the weights with gradients of the given norm, and update the moving average.

        The average decays faster at the start, ``decay = min(ema_decay, (1 + step) / (10 + step))``, so that it
        forgets the initial weights (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).
        """
        if self.recipe.clip_norm and norm > self.recipe.clip_norm:
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    local_shard(parameter.grad).mul_(self.recipe.clip_norm / norm)
        rate = self.recipe.rate(self.step)
        for options, group in zip(self.optimizer.param_groups, self.groups, strict=True):
            options["lr"] = rate * group.scale
        self.optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        for name, kept in self.average.items():
            kept.lerp_(local_shard(self.parameters[name]), 1.0 - decay)

    def evaluate(self) -> dict[str, float]:
        """The task's figures. Steps and evaluations need blocks of other sizes, so that neither can use what the other
        one has freed, and together they would take the memory of both."""
        return_freed_memory()
        scores = self.world.broadcast(self.task.evaluate())
        return_freed_memory()
        return scores

    def keep_if_best(self, scores: dict[str, float]) -> bool:
        """Keep a copy of the weights if the first score is the highest so far (NaN never is)."""
        if not scores:
            return False
        if not next(iter(scores.values())) > next(iter(self.best.values()), -math.inf):
            self.stale += 1
            return False
        self.best, self.best_step, self.stale = scores, self.step, 0
        self.best_weights = self.shards("cpu")
        return True

    def shards(self, device: str | None = None) -> Tensors:
        """A copy of the weights that this rank holds."""
        return {name: local_shard(p).to(device, copy=True) for name, p in self.parameters.items()}

    @torch.no_grad()
    def restore(self, shards: Tensors) -> None:
        """Set the weights to what `shards` returned; other parameters keep their values."""
        for name, shard in shards.items():
            local_shard(self.parameters[name]).copy_(shard)

    def mixed(self) -> Tensors:
        """The weights to be kept: the moving average, or the weights themselves, mixed with the initial ones."""
        kept = self.average or (self.shards() if self.initial else {})
        return {n: each.lerp(self.initial[n], self.recipe.mix) if self.initial else each for n, each in kept.items()}

    @contextmanager
    def kept_weights(self) -> Iterator[None]:
        """A context in which the weights are those of `mixed`."""
        kept = self.mixed()
        own = self.shards() if kept else {}
        self.restore(kept)
        try:
            yield
        finally:
            self.restore(own)

    def save(self, path: Path, inputs: str) -> None:
        """Gather a checkpoint from all ranks, which all have to call this; rank 0 writes it."""
        moments = {n: self.optimizer.state[p] for n, p in self.parameters.items() if p in self.optimizer.state}
        checkpoint = TrainingCheckpoint(
            inputs=inputs,
            step=self.step,
            weights=self._full({name: local_shard(p) for name, p in self.parameters.items()}),
            moments={
                name: {key: value if key == "step" else full_tensor(value).cpu() for key, value in moment.items()}
                for name, moment in moments.items()
            },
            average=self._full(self.average),
            before=self.before,
            best=self.best,
            best_step=self.best_step,
            stale=self.stale,
            best_weights=self._full(self.best_weights),
        )
        if self.world.is_main:
            checkpoint.write(path)
        self.saved_at = self.step

    def _full(self, shards: Tensors) -> Tensors:
        """Full tensors on the CPU."""
        return {name: gather_shards(shard, self.parameters[name]).cpu() for name, shard in shards.items()}

    @torch.no_grad()
    def resume(self, path: Path, inputs: str) -> None:
        """Continue from a checkpoint, which any number of ranks may have written.

        Raises:
            ModelError: the checkpoint is damaged, or its inputs or parameters are others.
        """
        saved = TrainingCheckpoint.read(path, inputs)
        shapes = {name: p.shape for name, p in self.parameters.items()}
        if shapes != {name: tensor.shape for name, tensor in saved.weights.items()}:
            raise ModelError(
                f"{path} holds {len(saved.weights)} parameters that do not match the {len(shapes)} to be trained.",
                hint=START_OVER,
            )
        self.restore(self._shard_tensors(saved.weights))
        for name, moment in saved.moments.items():
            like = self.parameters[name]
            self.optimizer.state[like] = {k: v if k == "step" else shard_like(v, like) for k, v in moment.items()}
        self.average, self.before = self._shard_tensors(saved.average), saved.before
        self.best, self.best_step, self.stale = saved.best, saved.best_step, saved.stale
        self.best_weights = {name: shard.cpu() for name, shard in self._shard_tensors(saved.best_weights).items()}
        self.step = self.saved_at = saved.step

    def _shard_tensors(self, tensors: Tensors) -> Tensors:
        return {name: local_shard(shard_like(tensor, self.parameters[name])) for name, tensor in tensors.items()}
