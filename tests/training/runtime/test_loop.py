"""The training loop: optimisation, and recovery from kills and non-finite losses."""

import copy
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from llm2clip_search.base.progress import no_progress
from llm2clip_search.encoders.within_memory import is_out_of_memory
from llm2clip_search.errors import ModelError
from llm2clip_search.training.runtime.checkpoint import TrainingCheckpoint
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.loop import LoopRecipe, LoopResult, run_loop
from llm2clip_search.training.runtime.metrics_log import read_metrics
from llm2clip_search.training.runtime.micro_batches import MicroBatches
from llm2clip_search.training.runtime.parameter_groups import ParameterGroup
from tests.support.toy_training import RECIPE, ToyTask, start, train, train_and_die


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Line:
    """Fits a line; its evaluations return ``scores`` in turn."""

    samples_per_step = 4
    micro_batches = MicroBatches(size=4, cached=False)

    def __init__(self, scores: tuple[float, ...] = ()) -> None:
        self.weight, self.bias = nn.Parameter(torch.full((1, 3), 0.5)), nn.Parameter(torch.zeros(1))
        self.scores = iter(scores)
        self.passed: list[torch.Tensor] = []

    def groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup(parameters={"weight": self.weight}),
            ParameterGroup(parameters={"bias": self.bias}, scale=0.1),
        ]

    def backward(self, step: int) -> dict[str, float]:
        self.passed.append(self.weight.detach().clone())
        return {"loss": line_loss(self.weight, self.bias, step)}

    def evaluate(self) -> dict[str, float]:
        self.passed.append(self.weight.detach().clone())
        score = next(self.scores, None)
        return {} if score is None else {"score": score}


def line_loss(weight: torch.Tensor, bias: torch.Tensor, step: int) -> float:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    loss = (x @ weight.T + bias - x.sum(dim=1, keepdim=True) - 1.0).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def test_schedule_is_linear_then_cosine() -> None:
    recipe = LoopRecipe(steps=10, learning_rate=2.0, warmup_steps=4)
    halves = [0.25, 0.5, 0.75, 1.0, 1.0, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]
    assert [recipe.rate(step) for step in range(10)] == pytest.approx([2.0 * half for half in halves])
    torch_rates = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torch_rates, T_max=7)
    for step in range(7):
        assert LoopRecipe(steps=7, learning_rate=3.0).rate(step) == pytest.approx(cosine.get_last_lr()[0])
        torch_rates.step()
        cosine.step()


def test_without_steps_the_weights_are_evaluated_and_kept(tmp_path: Path) -> None:
    task = Line((0.75,))
    result = run_loop(
        task,
        LoopRecipe(steps=0, learning_rate=0.1, ema_decay=0.5),
        out=tmp_path,
        inputs="",
        world=World(),
        progress=no_progress,
    )
    assert (result.figures, result.before, result.steps) == ({"score": 0.75}, {"score": 0.75}, 0)
    assert torch.equal(task.weight, torch.full((1, 3), 0.5))
    assert torch.equal(task.bias, torch.zeros(1))


@pytest.mark.parametrize("clip", [0.0, 0.7])
def test_updates_equal_adamw(tmp_path: Path, clip: float) -> None:
    recipe = LoopRecipe(steps=8, learning_rate=0.1, warmup_steps=2, weight_decay=0.3, betas=(0.8, 0.9), clip_norm=clip)
    task, plain = Line(), Line()
    train(task, tmp_path, recipe)
    optimizer = torch.optim.AdamW(
        [{"params": [plain.weight], "weight_decay": 0.3}, {"params": [plain.bias], "weight_decay": 0.0}],
        betas=(0.8, 0.9),
    )
    for step in range(8):
        for group, scale in zip(optimizer.param_groups, (1.0, 0.1), strict=True):
            group["lr"] = recipe.rate(step) * scale
        optimizer.zero_grad()
        line_loss(plain.weight, plain.bias, step)
        norm = nn.utils.clip_grad_norm_([plain.weight, plain.bias], clip or math.inf)
        assert read_metrics(tmp_path / "metrics.jsonl")[step]["gradient_norm"] == pytest.approx(float(norm), abs=1e-5)
        optimizer.step()
    torch.testing.assert_close(task.weight, plain.weight, rtol=1e-5 if clip else 0.0, atol=0.0)
    torch.testing.assert_close(task.bias, plain.bias, rtol=1e-5 if clip else 0.0, atol=0.0)


def test_the_moving_average_is_evaluated_and_kept(tmp_path: Path) -> None:
    task = Line()
    train(task, tmp_path, LoopRecipe(steps=6, learning_rate=0.1, ema_decay=0.3))
    passed = [weight.numpy() for weight in task.passed]
    last = TrainingCheckpoint.read(tmp_path / "last.pt", "toy").weights["weight"].numpy()
    average = passed[0]
    for done, weights in enumerate([*passed[1:6], last], start=1):
        decay = min(0.3, (1 + done) / (10 + done))
        average = decay * average + (1 - decay) * weights
    np.testing.assert_allclose(passed[6], average, rtol=1e-5)
    np.testing.assert_allclose(task.weight.detach(), average, rtol=1e-5)


def test_the_best_evaluation_is_kept(tmp_path: Path) -> None:
    task = Line(scores=(0.1, 0.5, 0.5, math.nan, 0.3))
    assert train(task, tmp_path, LoopRecipe(steps=5, learning_rate=0.1, evaluate_every=1)) == {"score": 0.5}
    assert torch.equal(task.weight, task.passed[3])  # after two steps and two evaluations
    evaluated = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "dev/score" in line]
    assert evaluated == [1, 2, 3, 4, 5]


def test_a_completed_run_is_not_repeated(tmp_path: Path) -> None:
    first, again = ToyTask(World()), ToyTask(World())
    figures = train(first, tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_text()
    assert train(again, tmp_path) == figures
    assert again.steps_run == 0
    assert (tmp_path / "metrics.jsonl").read_text() == metrics
    assert_same(again.weights(), first.weights())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.set_num_threads(1)
    out, task = tmp_path_factory.mktemp("uninterrupted"), ToyTask(World(), dropout=0.2)
    train(task, out)
    return out, task.weights()


@pytest.mark.parametrize(
    "deaths",
    [
        [("training", 2)],  # before the first checkpoint
        [("training", 8)],  # after an evaluation, between checkpoints
        [("evaluated", 1)],  # the evaluation is logged, but its weights are not saved
        [("evaluated", 3)],  # after the last step, before its checkpoint
        [("last.pt unnamed", 2)],
        [("last.pt in place", 2)],
        [("training", 4), ("last.pt unnamed", 1), ("training", 3), ("last.pt in place", 2)],
    ],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: tuple[Path, dict[str, torch.Tensor]], deaths: list[tuple[str, int]]
) -> None:
    for point, count in deaths:
        process = start(train_and_die, tmp_path, point, count)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    task = ToyTask(World(), dropout=0.2)
    train(task, tmp_path)
    out, weights = uninterrupted
    assert_same(task.weights(), weights)
    assert_same(*(vars(TrainingCheckpoint.read(folder / "last.pt", "toy")) for folder in (tmp_path, out)))
    metrics = [read_metrics(folder / "metrics.jsonl") for folder in (tmp_path, out)]
    for line in [*metrics[0], *metrics[1]]:
        line.pop("samples_per_second", None)
        line.pop("seconds", None)
    assert metrics[0] == metrics[1]
    assert [path.name for path in tmp_path.glob(".*")] == []


def assert_same(left: Any, right: Any) -> None:
    """Compare nested values bit by bit."""
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    else:
        assert left == right


@pytest.mark.parametrize(("kind", "message"), [("loss", "The loss is nan"), ("gradient", "The gradient norm is nan")])
def test_a_non_finite_loss_or_gradient_stops_the_run(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(
        ModelError, match=rf"{message} at step 2 of 12, learning rate 0\.0133; no checkpoint was saved before\."
    ):
        train(ToyTask(World(), poison={1: kind}), tmp_path)
    task = ToyTask(World(), poison={10: kind})
    with pytest.raises(
        ModelError, match=rf"{message} at step 11 of 12, .* last good checkpoint is step 9 in .*last\.pt"
    ):
        train(task, tmp_path)
    kept = TrainingCheckpoint.read(tmp_path / "last.pt", "toy")
    assert kept.step == 9
    assert kept.best
    assert all(weight.isfinite().all() for weight in task.weights().values())


def test_an_improvement_is_saved_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is step 4 in"):
        train(ToyTask(World(), poison={4: "loss"}), tmp_path, replace(RECIPE, checkpoint_every=100))
    assert TrainingCheckpoint.read(tmp_path / "last.pt", "toy").best


def test_a_checkpoint_of_other_inputs_is_refused(tmp_path: Path) -> None:
    train(ToyTask(World()), tmp_path)
    with pytest.raises(
        ModelError, match=r"last\.pt was written with another recipe or other data \(digest toy, now other\)"
    ):
        train(ToyTask(World()), tmp_path, inputs="other")
    task = Line()
    with pytest.raises(ModelError, match="holds 16 parameters that do not match the 2 to be trained"):
        train(task, tmp_path)


def flip_a_weight(path: Path) -> None:
    """Change one bit of a weight, which torch reads without an error."""
    weight = TrainingCheckpoint.read(path, "toy").weights["weight"]
    data = bytearray(path.read_bytes())
    data[data.index(weight.numpy().tobytes())] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path, weights_only=True)["weights"]["weight"], weight)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        flip_a_weight,
        lambda path: torch.save({"step": 3}, path),
        lambda path: torch.save([print], path),
    ],
)
def test_a_damaged_checkpoint_is_reported(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    train(Line(), tmp_path, LoopRecipe(steps=2, learning_rate=0.1))
    harm(tmp_path / "last.pt")
    with pytest.raises(ModelError, match=r"last\.pt is not a .*checkpoint.*\.$") as raised:
        train(Line(), tmp_path, LoopRecipe(steps=2, learning_rate=0.1))
    assert "delete the file to start over" in raised.value.hint


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def full_at_6(value: dict[str, Any], file: Any) -> None:
        save(copy.copy(value), file)
        if value["step"] == 6:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_at_6)
    with pytest.raises(ModelError, match=r"step 6 cannot be written to .*no space left.*the previous one is intact"):
        train(ToyTask(World()), tmp_path)
    assert TrainingCheckpoint.read(tmp_path / "last.pt", "toy").step == 4
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"warmup_steps": 11},
        {"weight_decay": -0.1},
        {"betas": (0.9, 1.0)},
        {"clip_norm": -1.0},
        {"ema_decay": 1.0},
        {"checkpoint_every": 0},
        {"evaluate_every": -1},
    ],
)
def test_invalid_recipes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"cannot have {next(iter(wrong))} "):
        LoopRecipe(**({"steps": 10, "learning_rate": 0.1} | wrong))


class Steady(ToyTask):
    """A task whose evaluation never changes."""

    def evaluate(self) -> dict[str, float]:
        return {"recall": 0.5}


def run_steady(task: ToyTask, out: Path, recipe: LoopRecipe, *, evaluate_first: bool = False) -> LoopResult:
    out.mkdir(exist_ok=True)
    arguments = {"inputs": "toy", "world": World(), "progress": no_progress}
    return run_loop(task, recipe, out=out, evaluate_first=evaluate_first, **arguments)  # type: ignore[arg-type]


def test_training_ends_when_evaluations_bring_nothing_more(tmp_path: Path) -> None:
    """The first evaluation is the best, and the second without an improvement is the last; that holds when resumed."""
    recipe = replace(RECIPE, evaluate_every=2, patience=2)
    result = run_steady(Steady(World()), tmp_path, recipe)
    assert (result.steps, result.selected) == (6, 2)
    again = Steady(World())
    assert run_steady(again, tmp_path, recipe) == result
    assert again.steps_run == 0


def test_weights_that_nothing_improves_are_kept(tmp_path: Path) -> None:
    task = Steady(World())
    initial = task.weights()
    result = run_steady(task, tmp_path, replace(RECIPE, evaluate_every=3), evaluate_first=True)
    assert result.before == result.figures == {"recall": 0.5}
    assert (result.steps, result.selected) == (12, 0)
    assert all(torch.equal(tensor, initial[name]) for name, tensor in task.weights().items())
    assert next(line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "dev/recall" in line) == 0


def test_a_share_of_the_initial_weights_is_kept(tmp_path: Path) -> None:
    """Training itself does not change by it."""
    plain, mixed = ToyTask(World()), ToyTask(World())
    initial = plain.weights()
    recipe = replace(RECIPE, ema_decay=0.0, evaluate_every=0)
    run_steady(plain, tmp_path / "plain", recipe)
    run_steady(mixed, tmp_path / "mixed", replace(recipe, mix=0.25))
    last = plain.weights()
    for name, tensor in mixed.weights().items():
        torch.testing.assert_close(tensor, 0.75 * last[name] + 0.25 * initial[name])


@pytest.mark.parametrize(("field", "value"), [("patience", -1), ("mix", 1.0), ("mix", -0.5)])
def test_impossible_ends_and_shares_are_refused(field: str, value: float) -> None:
    with pytest.raises(ModelError, match=f"cannot have {field} {value}"):
        replace(RECIPE, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("cache", [False, True])
def test_a_step_that_runs_out_of_memory_is_divided(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: bool
) -> None:
    """The weights are those of a run with enough memory; it is said once, although later steps lack memory too."""
    plain = ToyTask(World(), cache=cache)
    train(plain, tmp_path / "plain")
    short = ToyTask(World(), cache=cache, poison=dict.fromkeys(range(5, 12), "memory"))
    train(short, tmp_path / "short")
    assert (short.micro_batches.size, short.micro_batches.cached) == (1, True)
    for name, weight in short.weights().items():
        torch.testing.assert_close(weight, plain.weights()[name], rtol=1e-4, atol=1e-6)
    said = [record.message for record in caplog.records if "Memory" in record.message]
    expected = "Memory ran out at step 6; from now on, micro-batches have 1 rows, and gradients are cached."
    assert said == [expected]


def test_too_little_memory_for_one_row_ends_the_run(tmp_path: Path) -> None:
    class Full(Line):
        micro_batches = MicroBatches(size=1, cached=True)

        def backward(self, step: int) -> dict[str, float]:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 8 bytes"
            )

    with pytest.raises(ModelError, match=r"Memory ran out at step 1 with micro-batches of 1 and gradient caching on"):
        train(Full(), tmp_path, LoopRecipe(steps=2, learning_rate=0.1))


def test_other_errors_are_not_taken_for_lack_of_memory(tmp_path: Path) -> None:
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("can't allocate memory"))

    class Wrong(Line):
        def backward(self, step: int) -> dict[str, float]:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        train(Wrong(), tmp_path, LoopRecipe(steps=2, learning_rate=0.1))
