"""The loop that every stage runs: schedule, resume, moving average, evaluation, what is written down.

Everything random about a step is drawn from ``(seed, step)``, so that a checkpoint needs no
generator's state and a run that was killed goes on to the same weights.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from llm2clip_search.base.files import remove_leftovers
from llm2clip_search.base.progress import Progress
from llm2clip_search.errors import ModelError
from llm2clip_search.training.runtime.checkpoint import Tensors, TrainingCheckpoint
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.metrics_log import MetricsLog
from llm2clip_search.training.runtime.seeds import seed_torch
from llm2clip_search.training.runtime.sharding import full_tensor, gather_shards, is_sharded, local_shard, shard_like


@dataclass(frozen=True, kw_only=True)
class LoopRecipe:
    """What decides how any stage is optimised: AdamW, linear warm-up, cosine to zero."""

    steps: int
    learning_rate: float
    """Peak; a parameter group may scale it."""
    warmup_steps: int = 0
    weight_decay: float = 0.0
    """Of matrices; vectors (norms, biases, temperatures) are never decayed."""
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them."""
    ema_decay: float = 0.0
    """Of the moving average of the weights that is evaluated and kept; 0 keeps the weights themselves."""
    checkpoint_every: int = 50
    """Steps."""
    evaluate_every: int = 0
    """Steps; 0 evaluates at the end only."""
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "steps": self.steps >= 1,
            "learning_rate": 0.0 < self.learning_rate < math.inf,
            "warmup_steps": 0 <= self.warmup_steps <= self.steps,
            "weight_decay": self.weight_decay >= 0.0,
            "betas": all(0.0 <= beta < 1.0 for beta in self.betas),
            "clip_norm": self.clip_norm >= 0.0,
            "ema_decay": 0.0 <= self.ema_decay < 1.0,
            "checkpoint_every": self.checkpoint_every >= 1,
            "evaluate_every": self.evaluate_every >= 0,
        }
        for name, is_allowed in allowed.items():
            if not is_allowed:
                raise ModelError(f"A run of {self.steps} steps cannot have {name} {getattr(self, name)}.")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0; open_clip's ``cosine_lr``."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    parameters: Mapping[str, nn.Parameter]
    scale: float = 1.0
    """Of the recipe's learning rate."""
    complete: bool = False
    """Whether every rank computes the whole gradient, as it does for a temperature of the gathered loss."""


class Task(Protocol):
    """A stage: what one step computes, and how good the weights are.

    On many ranks every rank is called alike. Nothing but the parameters of `groups` may change from step
    to step, or a resumed run would differ: batch statistics, for one, are those of evaluation mode.
    """

    samples_per_step: int

    def groups(self) -> list[ParameterGroup]:
        """Everything that is trained."""

    def backward(self, step: int) -> dict[str, float]:
        """Accumulate the gradients of a step's whole batch; returns its figures, ``loss`` among them."""

    def evaluate(self) -> dict[str, float]:
        """Figures of the weights as they are; the first decides which checkpoint is the best, larger is better."""


def run_loop(
    task: Task, recipe: LoopRecipe, *, out: Path, inputs: str, world: World, progress: Progress
) -> dict[str, float]:
    """Train, resuming from ``out/last.pt`` where there is one; the kept weights are in the task afterwards.

    Kept are those of the best evaluation, or the last where none is made. Writes ``last.pt``, which holds
    them too, ``metrics.jsonl`` and TensorBoard events under ``out``. A run that is complete is not run
    again. All ranks read ``last.pt``; the leading one writes it.

    Args:
        inputs: digest of recipe and data; a checkpoint of other inputs is not resumed.

    Returns:
        Figures of the evaluation that was kept.

    Raises:
        ModelError: a loss or gradient that is no number, naming the step and the last good checkpoint; a
            checkpoint that is damaged or of other inputs.
    """
    state = _RunState(task, recipe, world)
    last = out / "last.pt"
    if world.is_main:
        for name in ("last.pt", "metrics.jsonl"):
            remove_leftovers(out / name)
    if world.broadcast({"resumes": last.exists()})["resumes"]:
        state.resume(last, inputs)
    start, began = state.step, time.perf_counter()
    log = MetricsLog(out, resume_at=start) if world.is_main and start < recipe.steps else None
    for step in range(start, recipe.steps):
        step_began = time.perf_counter()
        seed_torch(recipe.seed, step, "step")
        state.optimizer.zero_grad()
        figures = task.backward(step)
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
            with state.averaged():
                scores = world.broadcast(task.evaluate())
                improved = state.keep_if_best(scores)
            if log and scores:
                log.write(done, {f"dev/{name}": value for name, value in scores.items()})
                progress("evaluated", done, recipe.steps, scores)
        # What was kept is safe at once: a later loss that is no number must not cost it.
        if complete or improved or done % recipe.checkpoint_every == 0:
            state.save(last, inputs)
    if log:
        log.close()
    world.barrier()
    state.restore(state.best_weights or state.average)
    return state.best


def _require_finite(figures: Mapping[str, float], state: "_RunState", last: Path) -> None:
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(figures[name]):
            kept = f"the last good checkpoint is step {state.saved_at} in {last}" if state.saved_at else "none was kept"
            raise ModelError(
                f"The {name.replace('_', ' ')} is {figures[name]} at step {state.step + 1} of {state.recipe.steps},"
                f" learning rate {state.recipe.rate(state.step):.3g}; {kept}."
            )


class _RunState:
    """Weights, optimiser, moving average and best weights of a run; of a sharded parameter, this rank's piece."""

    def __init__(self, task: Task, recipe: LoopRecipe, world: World) -> None:
        self.recipe, self.world = recipe, world
        self.groups = _split_by_kind(task.groups())
        self.parameters = {name: p for group in self.groups for name, p in group.parameters.items()}
        assert len(self.parameters) == sum(len(group.parameters) for group in self.groups), "names must be unique"
        self.optimizer = torch.optim.AdamW(
            [{"params": [*group.parameters.values()], "weight_decay": _decay(group, recipe)} for group in self.groups],
            lr=recipe.learning_rate,
            betas=recipe.betas,
        )
        self.step = 0
        """Steps done."""
        self.saved_at = 0
        self.average = self.pieces() if recipe.ema_decay else {}
        self.best: dict[str, float] = {}
        self.best_weights: Tensors = {}

    def reduce_gradients(self) -> float:
        """Sum gradients over the ranks; returns their norm."""
        self.world.sum_gradients([p for p in self.parameters.values() if not is_sharded(p)])
        for group in self.groups:
            for parameter in group.parameters.values() if group.complete else ():
                if parameter.grad is not None:
                    parameter.grad /= self.world.size
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        kinds = [[g for g in gradients if is_sharded(g) == sharded] for sharded in (True, False)]
        return math.hypot(*(float(full_tensor(nn.utils.get_total_norm(kind))) for kind in kinds if kind))

    @torch.no_grad()
    def update(self, norm: float) -> None:
        """Take a step with gradients of this norm, and move the average.

        A young average moves faster, ``decay = min(ema_decay, (1 + step) / (10 + step))``, so that it
        forgets the start (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).
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

    def keep_if_best(self, scores: dict[str, float]) -> bool:
        """Keep the weights as they are if the first score is the largest so far; a NaN never is."""
        if not scores or not next(iter(scores.values())) > next(iter(self.best.values()), -math.inf):
            return False
        self.best, self.best_weights = scores, self.pieces("cpu")
        return True

    def pieces(self, device: str | None = None) -> Tensors:
        """A copy of the weights."""
        return {name: local_shard(p).to(device, copy=True) for name, p in self.parameters.items()}

    @torch.no_grad()
    def restore(self, pieces: Tensors) -> None:
        """Weights from what `pieces` gave; parameters that are not among them stay."""
        for name, piece in pieces.items():
            local_shard(self.parameters[name]).copy_(piece)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights are the moving average within, where one is kept."""
        own = self.pieces() if self.average else {}
        self.restore(self.average)
        try:
            yield
        finally:
            self.restore(own)

    def save(self, path: Path, inputs: str) -> None:
        """Write a checkpoint; every rank must, though only the leading one holds and writes it."""
        moments = {n: self.optimizer.state[p] for n, p in self.parameters.items() if p in self.optimizer.state}
        checkpoint = TrainingCheckpoint(
            inputs=inputs,
            step=self.step,
            weights=self._whole({name: local_shard(p) for name, p in self.parameters.items()}),
            moments={
                name: {key: value if key == "step" else full_tensor(value).cpu() for key, value in moment.items()}
                for name, moment in moments.items()
            },
            average=self._whole(self.average),
            best=self.best,
            best_weights=self._whole(self.best_weights),
        )
        if self.world.is_main:
            checkpoint.write(path)
        self.saved_at = self.step

    def _whole(self, pieces: Tensors) -> Tensors:
        """On the CPU."""
        return {name: gather_shards(piece, self.parameters[name]).cpu() for name, piece in pieces.items()}

    @torch.no_grad()
    def resume(self, path: Path, inputs: str) -> None:
        """Go on from a checkpoint, whatever number of ranks wrote it.

        Raises:
            ModelError: a checkpoint that is damaged, of other inputs, or of other parameters.
        """
        saved = TrainingCheckpoint.read(path, inputs)
        shapes = {name: p.shape for name, p in self.parameters.items()}
        if shapes != {name: tensor.shape for name, tensor in saved.weights.items()}:
            raise ModelError(
                f"{path} holds {len(saved.weights)} parameters that do not match the {len(shapes)} that are trained;"
                " name another folder with --out, or delete it."
            )
        self.restore(self._shard(saved.weights))
        for name, moment in saved.moments.items():
            like = self.parameters[name]
            self.optimizer.state[like] = {k: v if k == "step" else shard_like(v, like) for k, v in moment.items()}
        self.average, self.best = self._shard(saved.average), saved.best
        self.best_weights = {name: piece.cpu() for name, piece in self._shard(saved.best_weights).items()}
        self.step = self.saved_at = saved.step

    def _shard(self, tensors: Tensors) -> Tensors:
        return {name: local_shard(shard_like(tensor, self.parameters[name])) for name, tensor in tensors.items()}


def _split_by_kind(groups: list[ParameterGroup]) -> list[ParameterGroup]:
    """Each group in parts of one kind, so that decay is one number a group and sharded tensors are apart."""
    out = []
    for group in groups:
        kinds: dict[tuple[bool, bool], dict[str, nn.Parameter]] = {}
        for name, parameter in group.parameters.items():
            kinds.setdefault((parameter.ndim > 1, is_sharded(parameter)), {})[name] = parameter
        out += [replace(group, parameters=part) for part in kinds.values()]
    return out


def _decay(group: ParameterGroup, recipe: LoopRecipe) -> float:
    return recipe.weight_decay if next(iter(group.parameters.values())).ndim > 1 else 0.0
